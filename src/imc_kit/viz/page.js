"use strict";
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 40rem)");
  const whenIdle = window.requestIdleCallback ?? setTimeout;  // Safari has only the latter
  let loading = null;

  // plotly.js is embedded compressed; the first figure that scrolls into view decompresses it.
  async function unpack() {
    const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
    return window.Plotly;
  }

  function colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  function themed(layout) {
    const change = { "font.color": colour("--ink"), "hoverlabel.bgcolor": colour("--panel"),
      "hoverlabel.font.color": colour("--ink"), "hoverlabel.bordercolor": colour("--line") };
    for (const axis of ["xaxis", "yaxis"]) {
      change[axis + ".gridcolor"] = colour("--line");
      change[axis + ".linecolor"] = colour("--line");
      change[axis + ".zerolinecolor"] = colour("--line");
      if (narrow.matches && layout[axis] && layout[axis].type === "category" && layout.coloraxis)
        change[axis + ".showticklabels"] = false;
    }
    return change;
  }

  function put(target, path, value) {
    const names = path.split(".");
    const last = names.pop();
    for (const name of names) target = target[name] ??= {};
    target[last] = value;
  }

  async function draw(plot) {
    if (plot.dataset.state) return;
    plot.dataset.state = "drawing";
    try {
      const Plotly = await (loading ??= unpack());
      const figure = JSON.parse(plot.parentElement.querySelector("script").textContent);
      for (const [path, value] of Object.entries(themed(figure.layout))) put(figure.layout, path, value);
      if (plot.view) figure.layout.scene.camera = plot.view;
      else if (figure.layout.scene) {  // choose the distance for this aspect ratio; the legend takes 44 pixels
        const fits = figure.layout.meta.distances;
        const aspect = plot.clientWidth / (plot.clientHeight - 44);
        const [, distance] = fits.findLast(([least]) => least <= aspect) ?? fits[0];
        const { center, eye } = figure.layout.scene.camera;
        const length = Math.hypot(eye.x - center.x, eye.y - center.y, eye.z - center.z);
        figure.layout.scene.camera.eye = along(center, eye, distance / length);
      }
      if (narrow.matches && figure.layout.legend?.y < 0) {  // a legend below the figure: one name per line
        const lines = 20 * figure.data.length;
        Object.assign(figure.layout, { height: 340 + lines, margin: { ...figure.layout.margin, b: 80 + lines } });
        const place = { yref: "container", y: 0, yanchor: "bottom", maxheight: 1 };
        Object.assign(figure.layout.legend, { orientation: "v", ...place });
      }
      if (figure.layout.height) plot.style.minHeight = figure.layout.height + "px";
      await Plotly.newPlot(plot, figure.data, figure.layout, { displayModeBar: false, responsive: true });
      if (figure.layout.scene) plot.start ??= structuredClone(figure.layout.scene.camera);
      plot.dataset.state = "drawn";
    } catch (error) {
      plot.dataset.state = "failed";
      plot.textContent = "This figure could not be drawn here: " + error.message;
      console.error(error);
    }
  }

  function undraw(plot) {
    window.Plotly.purge(plot);
    delete plot.dataset.state;
  }

  // Browsers draw at most a dozen 3D views: drop those that leave the screen, and restore their cameras later.
  const seen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (isIntersecting) draw(target);
      else if (target.dataset.state === "drawn" && target.matches(".space")) {
        target.view = structuredClone(target._fullLayout.scene._scene.getCamera());
        undraw(target);
      }
    }
  }, { rootMargin: "300px" });

  // Other figures are also drawn when the browser is idle, so that a printed page has all of them.
  async function drawNext(plots) {
    const plot = plots.shift();
    if (plot?.offsetParent) await draw(plot);
    if (plots.length) whenIdle(() => drawNext(plots));
  }

  function activate(part) {
    part.querySelectorAll(".plot").forEach((plot) => seen.observe(plot));
    whenIdle(() => drawNext([...part.querySelectorAll(".plot:not(.space)")]));
    part.querySelectorAll("table.sortable").forEach(sortable);
    part.querySelectorAll(".buttons").forEach((bar) => bar.addEventListener("click", move));
  }

  function along(from, to, factor) {
    const part = (axis) => from[axis] + factor * (to[axis] - from[axis]);
    return { x: part("x"), y: part("y"), z: part("z") };
  }

  function rotated({ x, y, z }, angle) {
    const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
    return { x: x * cos - y * sin, y: x * sin + y * cos, z };
  }

  function move(event) {
    const action = event.target.dataset.move;
    const plot = event.currentTarget.parentElement.querySelector(".plot");
    if (!action || plot.dataset.state !== "drawn") return;
    const camera = structuredClone(plot._fullLayout.scene._scene.getCamera());
    const angle = { left: -Math.PI / 12, right: Math.PI / 12 }[action];
    if (angle) for (const part of ["eye", "center"]) camera[part] = rotated(camera[part], angle);
    const factor = { nearer: 0.8, farther: 1.25 }[action];
    if (factor) camera.eye = along(camera.center, camera.eye, factor);
    if (action === "above") {
      camera.center = { x: 0, y: 0, z: 0 };
      camera.eye = { x: camera.eye.x * 0.02, y: camera.eye.y * 0.02, z: 1.6 };
    }
    window.Plotly.relayout(plot, { "scene.camera": action === "reset" ? plot.start : camera });
  }

  function sortable(table) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
      const ascending = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => { if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none"); });
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
      const compare = (a, b) => {
        const [u, v] = [value(a), value(b)];
        if (u === "" || v === "") return (u === "") - (v === "");  // unknown values come last in both directions
        const order = head.classList.contains("number") ? u - v : u.localeCompare(v, undefined, { numeric: true });
        return ascending ? order : -order;
      };
      table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
    }));
  }

  // A scene's content is built when it is first opened; its figures are dropped when it is closed.
  document.querySelectorAll("details.scene").forEach((scene) => scene.addEventListener("toggle", () => {
    const template = scene.querySelector(":scope > template");
    if (scene.open && template) {
      const body = template.content.cloneNode(true);
      template.replaceWith(body);
      activate(scene);
    }
    if (!scene.open) scene.querySelectorAll(".plot[data-state=drawn]").forEach((plot) => {
      undraw(plot);
      seen.unobserve(plot);
      seen.observe(plot);
    });
  }));

  function open() {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target && target.matches("details")) target.open = true;
  }
  addEventListener("hashchange", open);
  document.querySelectorAll('a[href^="#scene-"]').forEach((link) => link.addEventListener("click", () => {
    document.getElementById(link.hash.slice(1)).open = true;
  }));
  dark.addEventListener("change", () => document.querySelectorAll(".plot[data-state=drawn]").forEach((plot) =>
    window.Plotly.relayout(plot, themed(plot.layout))));
  activate(document.querySelector("main"));
  const scenes = document.querySelectorAll("details.scene");
  if (scenes.length === 1) scenes[0].open = true;
  open();
})();
