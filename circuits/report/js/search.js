"use strict";

// Find nodes by name or part of one: L3H5, L2N17, H5, L3.
const Search = (() => {
  const { h } = Dom;
  const MOST = 12;
  let options = [];
  let active = -1;

  const matches = (typed) => {
    const wanted = typed.trim().toUpperCase().replace(/\s+/g, "");
    if (!wanted) return [];
    const rank = (id) => (id === wanted ? 0 : id.startsWith(wanted) ? 1 : 2);
    const strength = (place) => Math.max(...State.shownEmotions().map((emotion) =>
      (Data.circuits[emotion].has.has(place) ? 1 : 0) + Data.strength(place, State.state.measure, emotion)));
    return Data.nodes
      .map((node, place) => ({ id: node.id.toUpperCase(), place }))
      .filter(({ id }) => id.includes(wanted))
      .map((found) => ({ ...found, strength: strength(found.place) }))
      .sort((a, b) => rank(a.id) - rank(b.id) || b.strength - a.strength || a.place - b.place);
  };

  const close = () => {
    Dom.get("results").hidden = true;
    Dom.get("search").setAttribute("aria-expanded", "false");
    Dom.get("search").removeAttribute("aria-activedescendant");
    active = -1;
  };

  const take = (place) => {
    const members = Data.members[place];
    const changes = { found: null };
    // A node of no shown circuit is shown in one that it belongs to.
    if (members.length && !State.shownEmotions().some((emotion) => members.includes(emotion))) {
      Object.assign(changes, { emotion: members[0], other: null });
    }
    State.set(changes);
    Dom.get("search").value = Data.nodes[place].id;
    close();
    Panel.choose(place);
  };

  const point = (number) => {
    active = options.length ? (number + options.length) % options.length : -1;
    options.forEach(({ element }, place) => element.setAttribute("aria-selected", String(place === active)));
    if (active < 0) return;
    Dom.get("search").setAttribute("aria-activedescendant", options[active].element.id);
    options[active].element.scrollIntoView({ block: "nearest" });
  };

  const option = ({ place }, number) => {
    const { id, kind } = Data.nodes[place];
    const element = h("li", { id: `result-${number}`, role: "option", "aria-selected": "false" },
      h("b", {}, id), h("span", { class: "soft" }, Data.kindWords[kind]),
      h("span", { class: "members" }, Data.isPart(place) ? Data.members[place].map(Charts.swatch) : null));
    // Before the field loses its focus.
    element.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      take(place);
    });
    return { element, place };
  };

  const show = () => {
    const typed = Dom.get("search").value;
    const found = matches(typed);
    State.set({ found: found.length ? new Set(found.map(({ place }) => place)) : null });
    options = found.slice(0, MOST).map(option);
    const more = found.length > MOST ? h("li", { class: "soft", role: "presentation" }, `and ${Dom.plural(found.length - MOST, "other")}`) : null;
    const none = typed.trim() && !found.length ? h("li", { class: "soft", role: "presentation" }, "no part of a circuit has this name") : null;
    Dom.get("results").replaceChildren(...options.map(({ element }) => element), ...[more, none].filter(Boolean));
    Dom.get("results").hidden = !typed.trim();
    Dom.get("search").setAttribute("aria-expanded", String(Boolean(typed.trim())));
    point(0);
  };

  const clear = () => {
    Dom.get("search").value = "";
    State.set({ found: null });
    close();
  };

  const onKey = (event) => {
    if (event.key === "ArrowDown") point(active + 1);
    else if (event.key === "ArrowUp") point(active - 1);
    else if (event.key === "Enter" && options[active]) {
      take(options[active].place);
      Keyboard.focusNode(State.state.selected);
    } else if (event.key === "Escape") {
      clear();
      event.target.blur();
      event.stopPropagation();
    } else return;
    event.preventDefault();
  };

  const start = () => {
    const field = Dom.get("search");
    field.addEventListener("input", show);
    field.addEventListener("keydown", onKey);
    field.addEventListener("blur", () => {
      close();
      State.set({ found: null });
    });
    field.addEventListener("focus", () => field.value && show());
  };

  return { start };
})();
