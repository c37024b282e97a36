// What scrolls sideways can be reached and scrolled by keyboard.
function reachable() {
  for (const box of document.querySelectorAll("pre, .table-wrapper, .cell_output .output, .sig"))
    if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0; else box.removeAttribute("tabindex");
}
addEventListener("load", reachable);
addEventListener("resize", reachable);
