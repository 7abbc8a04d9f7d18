"use strict";

// What follows from what: changes of state, size and colours are drawn.
(() => {
  const REBUILDS = ["emotion", "other", "measure"];
  const SHOWS = ["selected", "told", "emotion", "other", "measure"];

  const tip = (event) => {
    const box = Dom.get("tip");
    const element = event.target.closest?.(".node");
    box.hidden = !element;
    if (!element) return;
    box.textContent = element.getAttribute("aria-label");
    const stage = Dom.get("stage").getBoundingClientRect();
    const [x, y] = [event.clientX - stage.left, event.clientY - stage.top];
    box.style.left = `${Math.max(4, Math.min(x + 14, stage.width - box.offsetWidth - 4))}px`;
    box.style.top = `${y > stage.height - 60 ? y - 40 : y + 16}px`;
  };

  const rebuild = () => {
    Draw.build();
    Camera.fit();
  };

  const onState = (changed) => {
    const has = (keys) => keys.some((key) => changed.has(key));
    if (changed.has("emotion") || changed.has("other")) Controls.fillEmotions();
    Dom.get("stage").classList.toggle("two", State.state.other !== null);
    const focused = document.activeElement?.closest?.(".node")?.dataset.node;
    if (has(REBUILDS)) rebuild();
    else Draw.update();
    if (focused !== undefined && has(REBUILDS)) Keyboard.focusNode(Number(focused));
    if (has(SHOWS)) Panel.render();
    Controls.showValues();
    Legend.show();
  };

  const recolour = () => {
    Draw.build();
    Camera.apply();
    Panel.render();
    Legend.show();
  };

  const facts = () => {
    const { name, n_layers: layers, n_heads: heads, d_mlp: neurons } = Data.model;
    const size = layers ? `${layers} layers with ${heads} heads and ${Number(neurons).toLocaleString("en")} neurons each` : "";
    Dom.get("facts").textContent = [name, size].filter(Boolean).join(" · ");
  };

  const start = () => {
    facts();
    Controls.start();
    Search.start();
    Save.start();
    Keyboard.start();
    Theme.start();
    rebuild();
    Camera.start();
    Panel.render();
    Legend.show();
    State.listen(onState);
    Theme.listen(recolour);
    const stage = Dom.get("stage");
    stage.addEventListener("click", (event) => {
      if (stage.classList.contains("dragged")) return;
      const element = event.target.closest?.(".node");
      if (element) Panel.choose(Number(element.dataset.node), Draw.paneOf(element).emotion);
      else if (event.target.closest?.("#graph")) Panel.choose(null);
    });
    stage.addEventListener("pointermove", tip);
    stage.addEventListener("pointerleave", () => { Dom.get("tip").hidden = true; });
    new ResizeObserver(() => {
      if (Draw.size() !== `${stage.clientWidth} ${stage.clientHeight}`) rebuild();
    }).observe(stage);
    document.documentElement.dataset.ready = "yes";
  };

  start();
})();
