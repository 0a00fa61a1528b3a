// Where the camera is, and how hands move it.

const CLICK = { mouse: 4, pen: 8, touch: 12 }; // pixels that a pointer may move and still have clicked
const DOUBLE = 350; // milliseconds from one tap to the next
const FLIGHT = 700; // milliseconds
const MOVES = { KeyW: [2, -1], KeyS: [2, 1], KeyD: [0, 1], KeyA: [0, -1], KeyE: [1, 1], KeyQ: [1, -1] };
const TURNS = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

class Navigator {
  // surface: the element that hands touch; on: { moved(), clicked(x, y, kind), chosen(x, y) }.
  constructor(scene, surface, on) {
    Object.assign(this, { scene, surface, on, keys: new Set(), pointers: new Map(), turning: false });
    this.flight = null;
    const pose = poseFromRows(scene.home.pose);
    this.home = { pose, distance: scene.home.distance, half: this.halfFor(scene.home) };
    Object.assign(this, this.home);
    const listen = (name, listener) => surface.addEventListener(name, listener, { passive: false });
    listen("pointerdown", (event) => this.press(event));
    listen("pointermove", (event) => this.drag(event));
    listen("pointerup", (event) => this.release(event));
    listen("pointercancel", (event) => this.release(event));
    listen("wheel", (event) => this.wheel(event));
    listen("dblclick", (event) => { if (this.kind !== "touch") on.chosen(event.offsetX, event.offsetY); });
    listen("contextmenu", (event) => event.preventDefault());
    addEventListener("keydown", (event) => this.key(event));
    addEventListener("keyup", (event) => this.keys.delete(event.code));
    addEventListener("blur", () => this.keys.clear());
  }

  get look() {
    return { pose: this.pose, half: this.half };
  }

  get pivot() {
    return add(this.pose.position, this.pose.back, -this.distance);
  }

  // The half of the shorter side, at depth 1, with which the whole picture of a camera is seen.
  halfFor({ halfWidth, halfHeight }) {
    const { clientWidth: width, clientHeight: height } = this.surface;
    const shorter = Math.min(width, height) || 1;
    return shorter * Math.max(halfWidth / (width || 1), halfHeight / (height || 1));
  }

  place({ pose, distance = this.distance, half = this.half }) {
    Object.assign(this, { flight: null, pose: orthonormal(pose), distance, half });
    this.on.moved();
  }

  flyTo({ pose, distance = this.distance, half = this.half }) {
    const to = { pose, distance, half };
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
      this.place(to);
      return;
    }
    this.flight = { from: { ...this.look, distance: this.distance }, to, begun: performance.now() };
    this.on.moved();
  }

  // What keys and flights have moved since the last picture; whether they go on.
  advance(seconds) {
    if (this.flight) {
      const { from, to, begun } = this.flight;
      const time = Math.min((performance.now() - begun) / FLIGHT, 1), part = time * time * (3 - 2 * time);
      this.pose = time < 1 ? between(from.pose, to.pose, part) : orthonormal(to.pose);
      this.distance = from.distance + part * (to.distance - from.distance);
      this.half = from.half + part * (to.half - from.half);
      if (time === 1) this.flight = null;
      return true;
    }
    const held = [...this.keys].filter((code) => code in MOVES || code in TURNS);
    const stride = Math.min(seconds, 0.1) * (this.keys.has("ShiftLeft") ? 1.8 : 0.6);
    for (const code of held) {
      if (code in MOVES) {
        const [axis, sign] = MOVES[code], { right, up, back } = this.pose;
        this.move(times([right, up, back][axis], sign * stride * this.scene.size));
      } else {
        this.orbit(...times(TURNS[code], 1.5 * stride));
      }
    }
    return held.length > 0;
  }

  move(by) {
    this.pose = { ...this.pose, position: add(this.pose.position, by) };
  }

  // Around what is looked at; or, turning, around the camera itself. Never over the poles.
  orbit(across, down) {
    const around = this.turning ? this.pose.position : this.pivot, { up } = this.scene;
    const height = Math.acos(clamp(dot(this.pose.back, up), -1, 1)); // from straight above
    const least = 0.03, upright = dot(this.pose.up, up) >= 0 ? 1 : -1;
    const tilt = clamp(height - upright * down, least, Math.PI - least) - height;
    this.pose = turnedPose(this.pose, up, across, around);
    this.pose = turnedPose(this.pose, this.pose.right, upright * tilt, around);
  }

  pan(across, down) {
    const { clientWidth, clientHeight } = this.surface;
    const pixel = (2 * this.half * this.distance) / Math.min(clientWidth, clientHeight);
    this.move(add(times(this.pose.right, -across * pixel), this.pose.up, down * pixel));
  }

  zoom(factor) {
    const distance = clamp(this.distance * factor, 1e-3 * this.scene.size, 1e3 * this.scene.size);
    this.move(times(this.pose.back, distance - this.distance));
    this.distance = distance;
  }

  press(event) {
    this.kind = event.pointerType;
    this.surface.setPointerCapture(event.pointerId);
    this.surface.focus({ preventScroll: true });
    const { offsetX: x, offsetY: y } = event;
    this.pointers.set(event.pointerId, { x, y, begun: [x, y], still: true });
    if (this.pointers.size > 1) this.pointers.forEach((pointer) => { pointer.still = false; });
    event.preventDefault();
  }

  drag(event) {
    const pointer = this.pointers.get(event.pointerId);
    if (!pointer) return;
    const { offsetX: x, offsetY: y } = event;
    if (pointer.still) {
      const [left, top] = pointer.begun, slack = CLICK[event.pointerType] ?? CLICK.mouse;
      const part = slack / Math.max(Math.hypot(x - left, y - top), 1);
      if (part > 1) return;
      // From here on, so that the picture does not jump.
      Object.assign(pointer, { x: left + part * (x - left), y: top + part * (y - top), still: false });
    }
    this.flight = null;
    const across = x - pointer.x, down = y - pointer.y, before = this.spread();
    Object.assign(pointer, { x, y });
    if (this.pointers.size === 2) {
      this.zoom(before / Math.max(this.spread(), 1));
      this.pan(across / 2, down / 2);
    } else if (event.buttons & 6 || event.shiftKey) {
      this.pan(across, down);
    } else {
      const angle = (this.turning ? 2 * Math.atan(this.half) : Math.PI) / this.surface.clientHeight;
      const sign = this.turning ? 1 : -1;
      this.orbit(sign * across * angle, -sign * down * angle);
    }
    this.on.moved();
  }

  // How far apart two fingers are.
  spread() {
    if (this.pointers.size !== 2) return 1;
    const [a, b] = this.pointers.values();
    return Math.max(Math.hypot(a.x - b.x, a.y - b.y), 1);
  }

  release(event) {
    const pointer = this.pointers.get(event.pointerId);
    this.pointers.delete(event.pointerId);
    if (!pointer?.still || event.type !== "pointerup") return;
    const { x, y } = pointer, { timeStamp: at, pointerType: kind } = event, before = this.tapped;
    this.tapped = { x, y, at };
    // Not every browser says dblclick of fingers.
    const far = before ? Math.hypot(x - before.x, y - before.y) : Infinity;
    if (kind === "touch" && far < 2 * CLICK.touch && at - before.at < DOUBLE) this.on.chosen(x, y);
    else this.on.clicked(x, y, kind);
  }

  wheel(event) {
    event.preventDefault();
    this.flight = null;
    // Touchpads say of a pinch that it is a wheel with the control key, turned a little.
    const pixels = event.deltaY * [1, 16, 400][event.deltaMode] * (event.ctrlKey ? 6 : 1);
    this.zoom(Math.exp(clamp(pixels, -400, 400) * 1e-3));
    this.on.moved();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.code === "ShiftLeft") this.keys.add(event.code);
    if (!(event.code in MOVES || event.code in TURNS)) return;
    if (event.code in TURNS && event.target.closest?.("button, input")) return;
    this.flight = null;
    this.keys.add(event.code);
    event.preventDefault();
    this.on.moved();
  }
}
