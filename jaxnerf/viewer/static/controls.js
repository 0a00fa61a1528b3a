// The buttons, and what their keys are.

class Controls {
  // viewer: see viewer.js.
  constructor(viewer) {
    this.viewer = viewer;
    const find = (name) => document.getElementById(name);
    this.notice = find("notice");
    this.views = [...document.querySelectorAll("[data-view]")];
    this.views.forEach((button) => button.addEventListener("click", () => viewer.show(button.dataset.view)));
    const actions = {
      home: ["KeyH", () => viewer.goHome()],
      turn: ["KeyR", () => this.press("turn", (viewer.navigator.turning = !viewer.navigator.turning))],
      cameras: ["KeyC", () => this.press("cameras", viewer.toggleCameras())],
      link: ["KeyL", () => this.copyLink()],
      full: ["KeyF", () => this.fullScreen()],
      path: ["KeyP", () => this.open("path")],
      help: ["Slash", () => this.open("help")],
    };
    for (const [name, [, act]] of Object.entries(actions)) find(name).addEventListener("click", act);
    find("full").hidden = !document.fullscreenEnabled;
    document.addEventListener("fullscreenchange", () => this.press("full", document.fullscreenElement));
    this.press("full", false);
    this.keys = Object.fromEntries(Object.values(actions));
    addEventListener("keydown", (event) => this.key(event));
    this.press("cameras", true);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const view = this.views["1234".indexOf(event.key)];
    if (view) this.viewer.show(view.dataset.view);
    else this.keys[event.code]?.();
  }

  // Open one panel, or close it; the other gives way.
  open(name) {
    for (const each of ["path", "help"]) {
      const panel = document.getElementById(`${each}text`);
      panel.hidden = each !== name || !panel.hidden;
      this.press(each, !panel.hidden);
    }
  }

  press(name, pressed) {
    document.getElementById(name).setAttribute("aria-pressed", Boolean(pressed));
  }

  showView(view) {
    this.views.forEach((button) => button.setAttribute("aria-pressed", button.dataset.view === view));
  }

  say(text, milliseconds = 2000) {
    this.notice.textContent = text;
    clearTimeout(this.saying);
    if (milliseconds) this.saying = setTimeout(() => { this.notice.textContent = ""; }, milliseconds);
  }

  async copyLink() {
    this.viewer.writeHash();
    try {
      await navigator.clipboard.writeText(location.href);
      this.say("The address of this view is copied.");
    } catch {
      this.say("This view's address is in the address bar.");
    }
  }

  async fullScreen() {
    try {
      if (document.fullscreenElement) await document.exitFullscreen();
      else await document.documentElement.requestFullscreen();
    } catch {
      this.say("The browser does not allow full screen here.");
    }
  }
}
