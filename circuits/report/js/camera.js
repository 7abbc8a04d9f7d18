"use strict";

// Zoom and shift, the same in both panes; neurons get names when they are large enough for them.
const Camera = (() => {
  const view = { k: 1, x: 0, y: 0, fitted: 1 };
  let waiting = null;

  const apply = () => {
    const moved = `translate(${view.x.toFixed(2)} ${view.y.toFixed(2)}) scale(${view.k.toFixed(4)})`;
    for (const own of Draw.panes()) {
      own.world.setAttribute("transform", moved);
      // Names stay readable where the graph is small, as far as there is room for them.
      for (const [layer, size, most] of [[own.group, 9, 15], [own.bands, 10, 24], [own.over, 11, 20]]) {
        layer.setAttribute("font-size", Math.min(most, Math.max(size, size / view.k)).toFixed(1));
      }
    }
    Dom.get("stage").style.touchAction = view.k > view.fitted * 1.05 ? "none" : "pan-y";
    clearTimeout(waiting);
    waiting = setTimeout(names, 120);
  };

  const names = () => {
    const colours = Theme.palette();
    for (const own of Draw.panes()) {
      for (const old of own.world.querySelectorAll(".name")) old.remove();
      if (view.k < 1.75) continue;
      const { width, height } = own.frame;
      const { at } = Draw.layout();
      const near = [...own.drawn].filter((place) => {
        const [x, y] = at.get(place).map((value, axis) => value * view.k + (axis ? view.y : view.x));
        return Data.nodes[place].kind === "neuron" && x > 0 && y > 0 && x < width && y < height;
      });
      for (const place of near.slice(0, 300)) {
        const [x, y] = at.get(place);
        const { id } = Data.nodes[place];
        own.over.append(Dom.s("text", {
          class: "name", x, y: y + 9.5, "text-anchor": "middle", "font-family": "system-ui, sans-serif",
          "font-size": Math.min(4.8, 30 / id.length).toFixed(1), fill: colours.soft,
        }, id));
      }
    }
  };

  // Everything that is drawn, as large as the pane allows.
  const fit = () => {
    const [own] = Draw.panes();
    const { at, box } = Draw.layout();
    const { width, height } = own.frame;
    const room = { left: 40, right: 40, top: 64, bottom: 34 };
    const drawn = [...new Set(Draw.panes().flatMap((pane) => [...pane.drawn]))].map((place) => at.get(place));
    const shown = drawn.length ? Layout.boxOf(drawn) : box;
    view.k = Math.min((width - room.left - room.right) / Math.max(1, shown.width), (height - room.top - room.bottom) / Math.max(1, shown.height), 1.7);
    view.fitted = view.k;
    view.x = room.left + (width - room.left - room.right - shown.width * view.k) / 2 - shown.x * view.k;
    view.y = room.top + (height - room.top - room.bottom - shown.height * view.k) / 2 - shown.y * view.k;
    apply();
  };

  const zoom = (factor, x, y) => {
    const { width, height } = Draw.panes()[0].frame;
    const [cx, cy] = [x ?? width / 2, y ?? height / 2];
    const k = Math.min(12, Math.max(0.1, view.k * factor));
    view.x = cx - ((cx - view.x) * k) / view.k;
    view.y = cy - ((cy - view.y) * k) / view.k;
    view.k = k;
    apply();
  };

  const shift = (dx, dy) => {
    view.x += dx;
    view.y += dy;
    apply();
  };

  // Bring a node into sight, without a jump where it is in sight already.
  const reveal = (place) => {
    const { width, height } = Draw.panes()[0].frame;
    const found = Draw.layout().at.get(place);
    if (!found) return;
    const [x, y] = [found[0] * view.k + view.x, found[1] * view.k + view.y];
    if (x > 30 && y > 40 && x < width - 30 && y < height - 30) return;
    shift(width / 2 - x, height / 2 - y);
  };

  // Where in its pane a pointer is.
  const inPane = (event) => {
    const stage = Dom.get("stage").getBoundingClientRect();
    const [x, y] = [event.clientX - stage.left, event.clientY - stage.top];
    const own = Draw.panes().find(({ frame }) => x >= frame.x && y >= frame.y && x < frame.x + frame.width && y < frame.y + frame.height);
    return own ? [x - own.frame.x, y - own.frame.y] : [x, y];
  };

  const start = () => {
    const stage = Dom.get("stage");
    let held = null;
    stage.addEventListener("wheel", (event) => {
      // On a narrow page the wheel scrolls; with Ctrl it zooms everywhere.
      if (!event.ctrlKey && !window.matchMedia("(min-width: 60rem)").matches) return;
      event.preventDefault();
      zoom(Math.exp(-event.deltaY * 0.0015), ...inPane(event));
    }, { passive: false });
    stage.addEventListener("pointerdown", (event) => {
      if (event.button === 0) held = { x: event.clientX, y: event.clientY, moved: false };
    });
    window.addEventListener("pointermove", (event) => {
      if (!held) return;
      const [dx, dy] = [event.clientX - held.x, event.clientY - held.y];
      if (!held.moved && Math.hypot(dx, dy) < 4) return;
      Object.assign(held, { x: event.clientX, y: event.clientY, moved: true });
      stage.classList.add("dragged");
      shift(dx, dy);
    });
    const release = () => {
      // The click that follows a drag selects nothing.
      setTimeout(() => stage.classList.remove("dragged"));
      held = null;
    };
    window.addEventListener("pointerup", release);
    window.addEventListener("pointercancel", release);
    Dom.get("in").addEventListener("click", () => zoom(1.35));
    Dom.get("out").addEventListener("click", () => zoom(1 / 1.35));
    Dom.get("fit").addEventListener("click", fit);
  };

  return { start, fit, zoom, shift, reveal, apply };
})();
