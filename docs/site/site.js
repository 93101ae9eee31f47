// A table that is wider than the page scrolls; by keyboard too, once it can have the focus.
addEventListener("load", () => {
  for (const table of document.querySelectorAll(".md-typeset__scrollwrap")) table.tabIndex = 0;
});
