"use strict";
(function () {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const hover = window.matchMedia("(hover: hover)");
  const config = {
    responsive: true,
    displaylogo: false,
    displayModeBar: hover.matches ? "hover" : false,
    modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
  };

  function ink() {
    return dark.matches ? "#c9cad3" : "#45454e";
  }

  function plain(label) {
    return label.replace(/&lt;/g, "<").replace(/&gt;/g, ">").replace(/&amp;/g, "&");
  }

  let made = 0;

  function labelled(what, control) {
    const label = document.createElement("label");
    label.append(what + " ", control);
    return label;
  }

  function menu(graph, described) {
    const select = document.createElement("select");
    described.buttons.forEach(function (button, number) {
      select.add(new Option(plain(button.label), String(number)));
    });
    select.addEventListener("change", function () {
      const button = described.buttons[Number(select.value)];
      window.Plotly[button.method](graph, ...button.args);
    });
    return [labelled(described.name, select)];
  }

  function slider(graph, described) {
    const range = document.createElement("input");
    const output = document.createElement("output");
    made += 1;
    range.type = "range";
    range.id = "range-" + made;
    range.min = "0";
    range.max = String(described.steps.length - 1);
    range.value = "0";
    output.htmlFor = range.id;
    function say() {
      output.value = plain(described.steps[Number(range.value)].label);
      range.setAttribute("aria-valuetext", output.value);
    }
    range.addEventListener("input", function () {
      const step = described.steps[Number(range.value)];
      say();
      window.Plotly[step.method](graph, ...step.args);
    });
    say();
    return [labelled(described.name, range), output];
  }

  /* Menus and sliders of a figure become controls of the page, which a keyboard can use. */
  function controls(graph, layout) {
    const box = document.createElement("div");
    box.className = "controls";
    (layout.updatemenus || []).forEach(function (one) {
      box.append(...menu(graph, one));
      layout.margin.t -= 40;
    });
    (layout.sliders || []).forEach(function (one) {
      box.append(...slider(graph, one));
      layout.height -= 70;
    });
    delete layout.updatemenus;
    delete layout.sliders;
    if (box.children.length) graph.before(box);
  }

  /* Titles come wrapped for a phone. */
  function unwrap(graph, layout) {
    const lines = layout.title.text.split("<br>");
    if (graph.clientWidth < 620 || lines.length < 2) return;
    layout.title.text = lines.join(" ");
    layout.title.pad.t = 10;
    layout.margin.t -= 20 * (lines.length - 1);
  }

  function described(graph) {
    return JSON.parse(document.getElementById("data-" + graph.dataset.figure).textContent);
  }

  function paint(graph) {
    if (graph.dataset.drawn) return;
    graph.dataset.drawn = "yes";
    const figure = described(graph);
    controls(graph, figure.layout);
    unwrap(graph, figure.layout);
    figure.layout.font.color = ink();
    graph.setAttribute("role", "img");
    graph.setAttribute("aria-label", plain(figure.layout.title.text.replace(/<br>/g, " ")));
    window.Plotly.newPlot(graph, figure.data, figure.layout, config);
  }

  function wipe(graph) {
    if (!graph.dataset.drawn) return;
    delete graph.dataset.drawn;
    window.Plotly.purge(graph);
    const before = graph.previousElementSibling;
    if (before && before.className === "controls") before.remove();
  }

  const graphs = Array.from(document.querySelectorAll(".figure"));

  function shown(graph) {
    return !graph.closest("[hidden]");
  }

  const watcher = new IntersectionObserver(function (entries) {
    entries.forEach(function (entry) {
      if (entry.isIntersecting && shown(entry.target)) paint(entry.target);
    });
  }, { rootMargin: "600px" });

  dark.addEventListener("change", function () {
    graphs.forEach(function (graph) {
      if (graph.dataset.drawn) window.Plotly.relayout(graph, { "font.color": ink() });
    });
  });

  /* One panel at a time; arrow keys, Home and End move between tabs. */
  document.querySelectorAll("[role=tablist]").forEach(function (list) {
    const tabs = Array.from(list.querySelectorAll("[role=tab]"));
    function select(chosen, focus) {
      tabs.forEach(function (tab) {
        const panel = document.getElementById(tab.getAttribute("aria-controls"));
        const on = tab === chosen;
        tab.setAttribute("aria-selected", String(on));
        tab.tabIndex = on ? 0 : -1;
        panel.hidden = !on;
        if (!on) panel.querySelectorAll(".figure").forEach(wipe);
        if (on && focus) panel.querySelectorAll(".figure").forEach(paint);
      });
      if (focus) chosen.focus();
    }
    tabs.forEach(function (tab, number) {
      tab.addEventListener("click", function () { select(tab, true); });
      tab.addEventListener("keydown", function (event) {
        const last = tabs.length - 1;
        const next = {
          ArrowRight: number === last ? 0 : number + 1,
          ArrowLeft: number === 0 ? last : number - 1,
          Home: 0,
          End: last,
        }[event.key];
        if (next === undefined) return;
        event.preventDefault();
        select(tabs[next], true);
      });
    });
    list.hidden = false;
    if (tabs.length) select(tabs[0], false);
  });

  document.querySelectorAll("[data-picks]").forEach(function (select) {
    function pick() {
      document.querySelectorAll("[data-sample]").forEach(function (sample) {
        sample.hidden = sample.dataset.sample !== select.value;
      });
    }
    select.addEventListener("change", pick);
    select.closest(".picker").hidden = false;
    pick();
  });

  graphs.forEach(function (graph) { watcher.observe(graph); });
  window.addEventListener("beforeprint", function () {
    graphs.filter(shown).forEach(paint);
  });
})();
