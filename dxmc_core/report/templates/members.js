// With #doubtful the pages are gone through from the last to the first, and each of them from its end.
function turn() {
  const isTurned = location.hash === "#doubtful";
  const list = one(document, ".members");
  if (isTurned !== (list.dataset.turned === "yes")) {
    list.append(...[...list.children].reverse());
    list.dataset.turned = isTurned ? "yes" : "no";
  }
  for (const nav of all(document, ".pages")) {
    const links = all(nav, "a", HTMLAnchorElement).sort((a, b) => Number(a.textContent) - Number(b.textContent));
    nav.append(...(isTurned ? links.reverse() : links));
    for (const link of links) link.hash = isTurned ? "doubtful" : "";
  }
  one(document, "#order").textContent = isTurned ? "the worst fit first" : "the best fit first";
  one(document, isTurned ? "#by-doubtful" : "#by-best").setAttribute("aria-current", "true");
  one(document, isTurned ? "#by-best" : "#by-doubtful").removeAttribute("aria-current");
}

addEventListener("hashchange", turn);
turn();
