"use strict";

// The graph without a mouse: arrows go to the nearest node, Enter selects, Escape goes back.
const Keyboard = (() => {
  const STEPS = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };

  const nodeOf = (element) => element?.closest?.(".node") ?? null;
  const placeOf = (element) => Number(element.dataset.node);

  // The nearest drawn node that lies more in this direction than aside.
  const nearest = (own, place, [dx, dy]) => {
    const { at } = Draw.layout();
    const [x, y] = at.get(place);
    let best = null;
    let least = Infinity;
    for (const other of own.drawn) {
      const [ox, oy] = at.get(other);
      const ahead = (ox - x) * dx + (oy - y) * dy;
      const aside = Math.abs((ox - x) * dy) + Math.abs((oy - y) * dx);
      const cost = ahead + 2.5 * aside;
      if (other !== place && ahead > 0.5 && aside <= 2 * ahead && cost < least) [best, least] = [other, cost];
    }
    return best;
  };

  const focusNode = (place, own = Draw.panes().find(({ drawn }) => drawn.has(place))) => {
    const element = own?.nodes.get(place);
    if (!element) return;
    for (const other of own.nodes.values()) other.setAttribute("tabindex", -1);
    element.setAttribute("tabindex", 0);
    Camera.reveal(place);
    element.focus({ preventScroll: true });
  };

  const onNode = (event, element) => {
    const [own, place] = [Draw.paneOf(element), placeOf(element)];
    const order = [...own.drawn].sort((a, b) => a - b);
    if (STEPS[event.key]) {
      const next = nearest(own, place, STEPS[event.key]);
      if (next !== null) focusNode(next, own);
    } else if (event.key === "Home") focusNode(order[0], own);
    else if (event.key === "End") focusNode(order[order.length - 1], own);
    else if (event.key === "Enter" || event.key === " ") Panel.choose(place, own.emotion);
    else return false;
    return true;
  };

  const back = () => {
    const { selected } = State.state;
    const inGraph = nodeOf(document.activeElement);
    if (selected === null) return;
    Panel.choose(null);
    if (!inGraph) focusNode(selected);
  };

  const onPage = (event) => {
    if (event.key === "Escape") back();
    else if (event.key === "/") {
      Dom.get("search").focus();
      Dom.get("search").select();
    } else if (event.key === "+" || event.key === "=") Camera.zoom(1.35);
    else if (event.key === "-") Camera.zoom(1 / 1.35);
    else if (event.key === "0") Camera.fit();
    else return false;
    return true;
  };

  const start = () => document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.matches?.("input:not([type=checkbox], [type=radio], [type=range]), select, textarea");
    const element = nodeOf(event.target);
    if ((element && onNode(event, element)) || (!typing && onPage(event))) event.preventDefault();
  });

  return { start, focusNode };
})();
