// Draws the figures embedded in the page, sorts and filters long tables, and fits charts to paper. In a page that
// `evo-tune watch` serves, it also applies changes. It contacts no server but that page's own.
(() => {
  "use strict";
  const coarse = window.matchMedia("(pointer: coarse)").matches;
  const config = { displayModeBar: false, responsive: true, showTips: false };

  function draw(id, spec) {
    const place = document.getElementById(id);
    if (!place) return Promise.resolve();
    const layout = Object.assign({}, spec.layout);
    if (coarse) layout.dragmode = false; // a finger scrolls the page
    return Plotly.react(place, spec.data, layout, config);
  }

  // Long tables: some rows at a time, in the order and with the filter that the reader chose; both outlive an update.
  const chosen = {};
  const compare = {
    "<": (a, b) => a < b,
    "<=": (a, b) => a <= b,
    ">": (a, b) => a > b,
    ">=": (a, b) => a >= b,
    "=": (a, b) => a === b,
    "!=": (a, b) => a !== b,
  };
  const short = (value) => (Math.abs(value) < 1e9 ? String(value) : value.toExponential());
  const shown = (value) => (value === null ? "-" : typeof value === "number" ? short(Number(value.toPrecision(5))) : String(value));

  function table(id, { names, columns, rows, choice, links, marked }, linked) {
    const place = document.getElementById(id);
    if (!place) return;
    const part = (name) => place.querySelector(`[data-part="${name}"]`);
    const now = (chosen[id] = chosen[id] || { by: names[0], down: false, page: 0, words: "", choice: "" });
    const heads = Array.from(place.querySelectorAll("th"));
    const texts = []; // of a row in lower case, made when it is first searched
    let kept = [];

    function test(term) {
      const [, name, sign, value] = term.match(/^(.+?)(<=|>=|!=|<|>|=)(.*)$/) || [];
      const column = columns[names.indexOf(name)];
      if (!column)
        return (row) => {
          texts[row] = texts[row] || columns.map((one) => shown(one[row])).join("\n").toLowerCase();
          return texts[row].includes(term.toLowerCase());
        };
      if (value === "") return () => true; // not typed yet
      return (row) => {
        const here = column[row];
        if (here === null) return sign === "!=";
        return typeof here === "number" ? compare[sign](here, Number(value)) : compare[sign](String(here), value);
      };
    }

    function find() {
      const tests = now.words.split(/\s+/).filter(Boolean).map(test);
      const [by, kinds] = [columns[Math.max(0, names.indexOf(now.by))], columns[names.indexOf(choice)]];
      kept = Array.from(by.keys()).filter((row) => (!now.choice || kinds[row] === now.choice) && tests.every((one) => one(row)));
      kept.sort((a, b) => {
        const [x, y] = [by[a], by[b]];
        if (x === null || y === null) return (x === null) - (y === null) || a - b; // the last, in both directions
        const [left, right] = typeof x === typeof y ? [x, y] : [String(x), String(y)];
        return (left < right ? -1 : left > right ? 1 : 0) * (now.down ? -1 : 1) || a - b;
      });
      show();
    }

    function show() {
      now.page = Math.max(0, Math.min(now.page, Math.ceil(kept.length / rows) - 1));
      const first = now.page * rows;
      const last = Math.min(first + rows, kept.length);
      place.querySelector("tbody").replaceChildren(...kept.slice(first, last).map(line));
      const all = columns[0].length;
      const of = kept.length === all ? `${all} rows` : `${kept.length} matching rows, ${all} in all`;
      part("said").textContent = kept.length ? `${first + 1} to ${last} of ${of}` : `No row of ${all} matches.`;
      part("back").disabled = now.page === 0;
      part("on").disabled = last === kept.length;
      heads.forEach((head, at) => {
        if (names[at] === now.by) head.setAttribute("aria-sort", now.down ? "descending" : "ascending");
        else head.removeAttribute("aria-sort");
      });
    }

    function line(row) {
      const made = document.createElement("tr");
      if (marked.includes(row)) made.className = "marked";
      columns.forEach((column, at) => {
        const cell = made.insertCell();
        cell.className = heads[at].className;
        cell.dataset.name = names[at]; // shown on paper, where a cell without a value is left out
        cell.classList.toggle("none", column[row] === null);
        if (linked && names[at] === links && column[row] !== null) {
          const link = cell.appendChild(document.createElement("a"));
          link.setAttribute("href", column[row]);
          link.textContent = column[row].split("/").pop();
        } else cell.textContent = shown(column[row]);
      });
      return made;
    }

    heads.forEach((head, at) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = names[at];
      button.addEventListener("click", () => {
        now.down = now.by === names[at] && !now.down;
        now.by = names[at];
        now.page = 0;
        find();
      });
      head.replaceChildren(button);
    });
    for (const name of ["words", "choice"]) {
      part(name).value = now[name];
      part(name).addEventListener("input", () => {
        now[name] = part(name).value;
        now.page = 0;
        find();
      });
    }
    for (const [name, by] of [["back", -1], ["on", 1]])
      part(name).addEventListener("click", () => {
        now.page += by;
        show();
      });
    for (const name of ["tools", "back", "on"]) part(name).hidden = false;
    find();
  }

  // Commands: a button copies each of them.
  function copyable(block) {
    const button = document.createElement("button");
    const text = block.textContent;
    Object.assign(button, { type: "button", className: "copy", textContent: "Copy" });
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text);
        button.textContent = "Copied";
      } catch (error) {
        getSelection().selectAllChildren(block); // the browser refuses: the reader's own keys copy it
        button.textContent = "Selected";
      }
    });
    block.parentElement.append(button);
  }

  async function drawAll({ figures, tables, linked }) {
    document.querySelectorAll("pre:not(:has(.copy)) > code").forEach(copyable);
    for (const [id, spec] of Object.entries(tables)) table(id, spec, linked);
    if (!window.Plotly) {
      document.getElementById("missing").hidden = false;
      return;
    }
    const began = performance.now();
    let last = began;
    for (const [id, spec] of Object.entries(figures)) {
      await draw(id, spec);
      if (performance.now() - last > 60) {
        await new Promise((next) => setTimeout(next)); // keep the page responsive
        last = performance.now();
      }
    }
    document.documentElement.dataset.drawn = Math.round(performance.now() - began);
  }

  // Paper has its own width.
  function fit(width) {
    if (!window.Plotly) return;
    for (const place of document.querySelectorAll(".chart.js-plotly-plot")) {
      const several = place.closest(".several") && !place.closest(".wide");
      if (width) Plotly.relayout(place, { width: several ? width / 2 - 10 : width, autosize: false });
      else Plotly.relayout(place, { width: null, autosize: true });
    }
  }
  window.addEventListener("beforeprint", () => fit(660));
  window.addEventListener("afterprint", () => fit(null));

  const data = JSON.parse(document.getElementById("figures").textContent);
  drawAll(data).then(() => {
    if (data.follow) follow(data);
  });

  // A page that follows a run: asks its server for changes and applies them.
  function follow(last) {
    const state = document.getElementById("state");
    const main = document.getElementById("main");
    let version = last.version;
    state.textContent = last.state;

    function place(name, html, order) {
      const old = document.getElementById(name);
      const open = old ? Array.from(old.querySelectorAll("details"), (one) => [one.id, one.open]) : [];
      const typing = old && old.contains(document.activeElement) ? document.activeElement.id : "";
      if (old) old.outerHTML = html;
      else {
        const after = order.slice(0, order.indexOf(name)).reverse().map((id) => document.getElementById(id)).find(Boolean);
        if (after) after.insertAdjacentHTML("afterend", html);
        else main.insertAdjacentHTML("afterbegin", html);
      }
      for (const [id, was] of open) if (document.getElementById(id)) document.getElementById(id).open = was;
      return typing;
    }

    async function ask() {
      if (document.getElementById("following").checked) {
        try {
          const answer = await fetch(`changes?since=${encodeURIComponent(version)}`, { cache: "no-store" });
          if (!answer.ok) throw new Error(String(answer.status));
          const news = await answer.json();
          version = news.version;
          state.textContent = news.state;
          const typing = Object.entries(news.parts).map(([name, html]) => place(name, html, news.order)).find(Boolean);
          const drawn = drawAll(news);
          if (typing && document.getElementById(typing)) document.getElementById(typing).focus();
          await drawn;
        } catch (error) {
          state.textContent = `The page's server does not answer (${error.message}); the page shows the last known state.`;
        }
      }
      setTimeout(ask, 2000);
    }
    document.getElementById("follow").hidden = false;
    setTimeout(ask, 2000);
  }
})();
