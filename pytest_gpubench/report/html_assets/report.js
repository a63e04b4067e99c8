"use strict";
(() => {
  const root = document.documentElement;
  const all = (selector, from = document) => Array.from(from.querySelectorAll(selector));

  // Light, dark, or as the system has it.
  const themes = ["auto", "light", "dark"];
  const themeButton = document.querySelector(".theme");
  const remembered = () => { try { return localStorage.getItem("gpubench-theme"); } catch { return null; } };
  const setTheme = (theme) => {
    if (theme === "auto") root.removeAttribute("data-theme"); else root.setAttribute("data-theme", theme);
    themeButton.textContent = `Theme: ${theme}`;
    try { localStorage.setItem("gpubench-theme", theme); } catch { /* a file without storage */ }
  };
  if (themeButton) {
    let theme = themes.includes(remembered()) ? remembered() : "auto";
    themeButton.hidden = false;
    setTheme(theme);
    themeButton.addEventListener("click", () => {
      theme = themes[(themes.indexOf(theme) + 1) % themes.length];
      setTheme(theme);
    });
  }

  // Filter: what carries tags is shown while every group that it belongs to has one of its tags chosen.
  const bar = document.querySelector(".bar-inner");
  if (bar) {
    bar.hidden = false;
    const groups = all("fieldset", bar).map((field) => all("input", field));
    const search = bar.querySelector("input[type=search]");
    const count = bar.querySelector("output");
    const tagged = all("[data-tags]").map((element) => [element, new Set(element.dataset.tags.split(" "))]);
    const apply = () => {
      const refused = groups.map((boxes) => new Set(boxes.filter((box) => !box.checked).map((box) => box.value)));
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0, rows = 0;
      for (const [element, tags] of tagged) {
        let off = refused.some((values) => [...tags].some((tag) => values.has(tag)));
        if (!off && words.length && (element.localName === "tr" || element.localName === "details")) {
          const head = element.querySelector("th, summary").textContent.toLowerCase();
          off = !words.every((word) => head.includes(word));
        }
        element.classList.toggle("off", off);
        if (element.closest("#cases") && element.localName === "tr") { rows += 1; shown += off ? 0 : 1; }
      }
      count.textContent = shown === rows ? `${rows} cases` : `${shown} of ${rows} cases`;
    };
    bar.addEventListener("input", apply);
    apply();
  }

  // What a point says: on hover, and with the arrow keys while its chart has the focus.
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.setAttribute("role", "status");
  tip.hidden = true;
  document.body.append(tip);
  let lit = null;
  const hide = () => { tip.hidden = true; if (lit) lit.classList.remove("on"); lit = null; };
  const show = (dot) => {
    if (lit) lit.classList.remove("on");
    lit = dot;
    dot.classList.add("on");
    tip.textContent = dot.tip;
    tip.hidden = false;
    const box = dot.getBoundingClientRect(), own = tip.getBoundingClientRect();
    const left = Math.min(Math.max(4, box.right + 8), window.innerWidth - own.width - 4);
    const over = box.top - own.height - 6;
    tip.style.setProperty("left", `${left}px`);
    tip.style.setProperty("top", `${over > 4 ? over : box.bottom + 6}px`);
  };
  for (const chart of all("svg.chart[tabindex]")) {
    for (const title of all(".dot > title", chart)) {
      title.parentNode.tip = title.textContent;
      title.remove();
    }
    const dots = () => all(".dot", chart).filter((dot) => dot.tip && !dot.closest(".off"));
    chart.addEventListener("pointermove", (event) => {
      let best = null, least = 22 * 22;
      for (const dot of dots()) {
        const box = dot.getBoundingClientRect();
        const away = ((box.left + box.right) / 2 - event.clientX) ** 2 + ((box.top + box.bottom) / 2 - event.clientY) ** 2;
        if (away < least) { best = dot; least = away; }
      }
      if (best) show(best); else hide();
    });
    chart.addEventListener("pointerleave", hide);
    chart.addEventListener("blur", hide);
    chart.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (event.key === "Escape") hide();
      if (!step) return;
      event.preventDefault();
      const found = dots();
      if (found.length) show(found[(found.indexOf(lit) + step + found.length) % found.length]);
    });
  }
  window.addEventListener("scroll", hide, { passive: true });

  // Sort a table by a click on a heading.
  const number = (cell) => {
    const found = cell.textContent.replaceAll(",", "").match(/[-+]?\d+(\.\d+)?/);
    return found ? parseFloat(found[0]) : null;
  };
  for (const table of all("table.sortable")) {
    const body = table.tBodies[0];
    all("thead th", table).forEach((head, place) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "descending";
        for (const other of all("thead th", table)) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "ascending" : "descending");
        const rows = Array.from(body.rows);
        rows.sort((a, b) => {
          const [x, y] = [a.cells[place], b.cells[place]];
          const [p, q] = place < 2 ? [null, null] : [number(x), number(y)];
          if (place >= 2 && (p === null || q === null)) return (p === null) - (q === null);
          const order = place < 2 ? x.textContent.localeCompare(y.textContent, "en", { numeric: true }) : p - q;
          return down ? order : -order;
        });
        body.append(...rows);
      });
    });
  }

  // Copy a command.
  for (const button of all("button.copy")) {
    button.addEventListener("click", async () => {
      const code = button.parentNode.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
      } catch {
        const range = document.createRange();
        range.selectNodeContents(code);
        const selection = getSelection();
        selection.removeAllRanges();
        selection.addRange(range);
        document.execCommand("copy");
      }
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }

  // A link to a case opens what it lies in.
  const open = () => {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    for (let element = target; element; element = element.parentElement) if (element.localName === "details") element.open = true;
    target.scrollIntoView();
  };
  window.addEventListener("hashchange", open);
  open();
})();
