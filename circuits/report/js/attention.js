"use strict";

// Where a head looks on one prompt: a map of all tokens, and one token's look as shaded text.
const Attention = (() => {
  const { h } = Dom;

  // Weights of one row; the row of token r has r + 1 weights.
  const rowOf = (bytes, r) => bytes.subarray((r * (r + 1)) / 2, ((r + 1) * (r + 2)) / 2);

  const paint = (canvas, bytes, count, colour, chosen) => {
    const cell = Math.max(2, Math.floor(344 / count));
    const colours = Theme.palette();
    Object.assign(canvas, { width: cell * count, height: cell * count });
    const pen = canvas.getContext("2d");
    pen.fillStyle = colours.panel;
    pen.fillRect(0, 0, canvas.width, canvas.height);
    for (let r = 0; r < count; r += 1) {
      rowOf(bytes, r).forEach((weight, c) => {
        if (!weight) return;
        // The root lets small weights be seen.
        pen.fillStyle = Theme.mixed(colour, Math.sqrt(weight / 255));
        pen.fillRect(c * cell, r * cell, cell, cell);
      });
    }
    pen.strokeStyle = colours.accent;
    pen.lineWidth = 1.5;
    pen.strokeRect(0.75, chosen * cell + 0.75, (chosen + 1) * cell - 1.5, Math.max(1, cell - 1.5));
    return cell;
  };

  const shadedText = (tokens, weights, colour, chosen) =>
    tokens.map((token, place) => {
      const weight = (weights[place] ?? 0) / 255;
      const shown = h("span", { class: place === chosen ? "token looks" : place > chosen ? "token later" : "token", title: `${Charts.spelled(token)}: ${Dom.number(weight, 2)}` },
        token.replace(/\n/g, "↵\n"));
      if (weight > 0.004) shown.style.backgroundColor = Theme.mixed(colour, 0.75 * Math.sqrt(weight));
      return shown;
    });

  const strongest = (tokens, weights) =>
    [...weights].map((weight, place) => [weight, place]).filter(([weight]) => weight > 2)
      .sort((a, b) => b[0] - a[0]).slice(0, 3)
      .map(([weight, place]) => `“${Charts.spelled(tokens[place])}” ${Dom.number(weight / 255, 2)}`).join(", ");

  const drawing = (prompt, weights, colour) => {
    const { tokens } = prompt;
    const bytes = Data.bytes(weights);
    const canvas = h("canvas", { class: "pattern", role: "img", "aria-label": "Attention from every token (rows) to those before it (columns)" });
    const slider = h("input", { type: "range", id: "looks", min: 0, max: tokens.length - 1, value: tokens.length - 1 });
    const said = h("output", { for: "looks" });
    const strip = h("p", { class: "strip" });
    let cell = 1;
    const show = () => {
      const chosen = Number(slider.value);
      const row = rowOf(bytes, chosen);
      cell = paint(canvas, bytes, tokens.length, colour, chosen);
      strip.replaceChildren(...shadedText(tokens, row, colour, chosen));
      said.textContent = `token ${chosen + 1} of ${tokens.length}, “${Charts.spelled(tokens[chosen])}”, attends most to ${strongest(tokens, row)}`;
    };
    slider.addEventListener("input", show);
    canvas.addEventListener("click", (event) => {
      const box = canvas.getBoundingClientRect();
      slider.value = Math.floor(((event.clientY - box.top) / box.height) * (canvas.height / cell));
      show();
    });
    show();
    return [h("label", { for: "looks" }, "Query token"), slider, said, strip, canvas,
      h("p", { class: "note" }, "Rows look, columns are looked at; darker is more. Click a row to read it as text.")];
  };

  const title = ({ context, emotion }) => `${Data.contexts[context].id} · asked for ${Data.emotions[emotion].name}`;

  // The section of the panel, for a head of this emotion's circuit or else of another's.
  const section = (id, emotion) => {
    const own = Data.patterns.get(id) ?? [];
    if (!own.length) {
      return Data.prompts.length ? [h("p", { class: "note" }, "Patterns are kept for the strongest heads of each circuit; this is none of them.")] : [];
    }
    const fitting = own.filter(({ prompt }) => prompt.emotion === emotion);
    const choices = fitting.length ? fitting : own;
    const wanted = choices.findIndex(({ prompt }) => prompt.context === State.state.context);
    const select = h("select", { id: "context" }, choices.map(({ prompt }, place) => h("option", { value: place, selected: place === Math.max(0, wanted) }, title(prompt))));
    const shown = h("div", {});
    const show = () => {
      const { prompt, weights } = choices[Number(select.value)];
      State.set({ context: prompt.context });
      shown.replaceChildren(...drawing(prompt, weights, Data.emotions[prompt.emotion].colour));
    };
    select.addEventListener("change", show);
    show();
    return [h("label", { for: "context" }, "Context"), select, shown];
  };

  return { section };
})();
