"use strict";

// What is known of the selected node; without one, the summary of the circuits.
const Panel = (() => {
  const { h, number } = Dom;

  const choose = (place, emotion = State.state.told) => {
    State.set({ selected: place, told: emotion });
    if (place !== null) Camera.reveal(place);
  };

  const section = (title, ...content) => {
    const filled = content.flat().filter(Boolean);
    return filled.length ? h("section", {}, h("h3", {}, title), ...filled) : null;
  };

  const table = (caption, columns, rows) => h("table", {}, h("caption", {}, caption),
    h("thead", {}, h("tr", {}, columns.map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, rows.map(([first, ...cells]) => h("tr", {}, h("th", { scope: "row" }, first), cells.map((cell) => h("td", {}, cell))))));

  const emotionName = (emotion) => h("span", { class: "emotion" }, Charts.swatch(emotion), Data.emotions[emotion].name);

  const interval = ([, low, high]) => (low === null || low === undefined ? "no interval" : `95% interval ${number(low)} to ${number(high)}`);

  const verdict = (beats) => (beats === true ? "yes" : beats === false ? "no" : "–");

  // Value and interval for every emotion, all on one scale, beside what random directions reach.
  const effects = (place) => {
    const rows = Data.emotions.map((_, emotion) => Data.row(place, "effect", emotion));
    if (!rows.some(Boolean)) return null;
    const x = Charts.scaleOf(rows);
    const importance = Data.nodes[place].kind === "sublayer";
    const lines = rows.map((row, emotion) => {
      if (!row) return [emotionName(emotion), "", "–", "–"];
      const said = `${number(row[0])}, ${interval(row)}, random baseline ${number(row[3])}`;
      const value = h("span", { title: said }, number(row[0]));
      return [emotionName(emotion), Charts.interval(row, x, Data.emotions[emotion].colour, said), value, verdict(row[4])];
    });
    const caption = importance ? "Importance, 95% interval; grey: random baseline" : "Own effect, 95% interval; grey: random baseline";
    return table(caption, ["emotion", "", "value", "above baseline"], lines);
  };

  const others = (place) => {
    const measures = Data.measures.filter(({ id }) => id !== "effect" && Data.nodes[place].scores[id]);
    if (!measures.length) return null;
    return table("Effects on the readout", ["emotion", ...measures.map(({ name }) => name)],
      Data.emotions.map((_, emotion) => [emotionName(emotion), ...measures.map(({ id }) => number(Data.value(place, id, emotion)))]));
  };

  const ranks = (place) => {
    const { kind } = Data.nodes[place];
    const counts = Data.ranked[kind] ?? {};
    const measures = Data.measures.filter(({ id }) => counts[id] && Data.nodes[place].scores[id]);
    if (!measures.length) return null;
    const [count] = Object.values(counts);
    return table(`Place by size, among all ${Dom.plural(count, Data.kindWords[kind])} of the model`,
      ["emotion", ...measures.map(({ id, name }) => (kind === "sublayer" && id === "effect" ? "importance" : name))],
      Data.emotions.map((_, emotion) => [emotionName(emotion), ...measures.map(({ id }) => Data.row(place, id, emotion)?.[5] ?? "–")]));
  };

  const tokens = (place, emotion) => {
    const lists = Data.nodes[place].tokens?.[emotion];
    if (!lists) return [];
    const [up, down] = lists.map((list) => Data.token_lists[list]);
    return [
      h("div", { class: "pair" },
        Charts.tokenList("promoted", up, Data.signs.towards), Charts.tokenList("suppressed", down, Data.signs.away)),
      h("p", { class: "note" }, `What it writes for ${Data.emotions[emotion].name}, beyond the mean of the emotions, through the final norm and the unembedding (logit lens); sizes are logits of a write of standard length.`),
    ];
  };

  const contexts = (place, emotion) => {
    const own = Data.nodes[place].contexts?.[emotion];
    if (!own?.length) return [];
    return [h("ol", { class: "contexts" }, own.map(([context, effect], number_) => {
      const { text, valence, theme, id } = Data.contexts[context];
      const last = number_ === own.length - 1 && own.length > 1;
      return h("li", {}, h("p", { class: "soft" }, h("span", { class: "value" }, number(effect)), ` ${last ? "lowest · " : ""}${theme ?? id} · ${valence ?? ""}`), h("p", { class: "context" }, text ?? id));
    })), h("p", { class: "note" }, `Of ${Dom.plural(Data.contexts.length, "context")}, asked for ${Data.emotions[emotion].name}; effect beyond the mean of the emotions there.`)];
  };

  const heading = (place) => {
    const { id, kind, layer } = Data.nodes[place];
    const members = Data.members[place];
    const where = layer === undefined ? "" : `, layer ${layer}`;
    return h("header", {},
      h("h2", { id: "what" }, id),
      h("button", { type: "button", id: "close", "aria-label": "Close: back to the circuit", onclick: () => choose(null) }, "×"),
      h("p", {}, `${Data.kindWords[kind]}${where}`),
      Data.isPart(place) ? h("p", { class: "members" }, "in the circuits of ", members.map(emotionName)) : null);
  };

  const details = (place, emotion) => {
    const { id, kind } = Data.nodes[place];
    const absent = !Data.circuits[emotion].has.has(place);
    return [
      heading(place),
      absent ? h("p", { class: "note" }, `Not in the circuit of ${Data.emotions[emotion].name}; its numbers are shown all the same.`) : null,
      section("Effects", effects(place), others(place)),
      section("Edges", Edges.section(place, emotion)),
      kind === "head" ? section("Attention pattern", Attention.section(id, emotion)) : null,
      section("Tokens", tokens(place, emotion)),
      section("Top contexts", contexts(place, emotion)),
      section("Place in the tables", ranks(place)),
    ].filter(Boolean);
  };

  // With two circuits side by side, of which of them tokens, contexts and patterns are.
  const which = (emotion) => {
    if (State.state.other === null) return null;
    return h("div", { class: "tabs", role: "group", "aria-label": "Emotion of the details" }, State.shownEmotions().map((own) =>
      h("button", { type: "button", "aria-pressed": String(own === emotion), onclick: () => State.set({ told: own }) }, emotionName(own))));
  };

  let shown = null;

  // Below the graph of a narrow page: far enough up that one sees that it is there.
  const peek = (panel) => {
    const below = panel.getBoundingClientRect().top - 0.7 * window.innerHeight;
    if (below > 0) window.scrollBy({ top: below, behavior: Dom.reduced() ? "auto" : "smooth" });
  };

  // The emotion that was asked for, if it is shown; or else one whose circuit has the node.
  const toldEmotion = () => {
    const { selected, told, emotion } = State.state;
    const two = State.shownEmotions();
    if (two.includes(told)) return told;
    return two.find((own) => Data.circuits[own].has.has(selected)) ?? emotion;
  };

  const render = () => {
    const { selected } = State.state;
    const emotion = toldEmotion();
    const panel = Dom.get("panel");
    const again = shown === selected;
    shown = selected;
    panel.replaceChildren(...[which(emotion)].filter(Boolean), ...(selected === null ? Summary.section(emotion) : details(selected, emotion)));
    if (again) return;
    panel.scrollTop = 0;
    if (selected !== null) peek(panel);
  };

  return { choose, section, table, emotionName, interval, verdict, render };
})();
