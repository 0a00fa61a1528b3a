// What is drawn when: small pictures while the camera moves, all of it when it rests.

const LEAST_SIDE = 256; // pixels of the longer side while the camera moves
const MOST_RATIO = 2; // pixels drawn for each of the page's
const FRAME = 30; // milliseconds that a picture or a part of one may take
const REST = 150; // milliseconds without motion
const SAMPLE = [48, 36]; // of the picture whose depths say which are shown

class Viewer {
  constructor(scene) {
    this.scene = scene;
    this.canvas = document.getElementById("picture");
    this.frame = new UserFrame(scene.toUser);
    this.renderer = new Renderer(this.canvas, scene);
    this.navigator = new Navigator(scene, this.canvas, {
      moved: () => this.wake(),
      clicked: (x, y, kind) => this.flyToPhotograph(x, y, kind),
      chosen: (x, y) => this.lookAt(x, y),
    });
    this.photographs = new Photographs(scene, document.getElementById("frusta"));
    this.controls = new Controls(this);
    this.path = new CameraPath(this);
    Object.assign(this, { view: "colour", scale: 0.5, refining: null, depths: [0, 1], settled: false });
    this.canvas.addEventListener("pointermove", (event) => this.hover(event));
    this.canvas.addEventListener("webglcontextlost", () =>
      this.controls.say("The graphics device was reset: load the page again.", 0));
    new ResizeObserver(() => this.wake()).observe(this.canvas);
    addEventListener("hashchange", () => this.readHash());
    this.show("colour");
    this.readHash();
  }

  // Whether rough edges are seen by more rays.
  get smooths() {
    return this.view === "colour" && this.scene.edgeSupersampling > 0;
  }

  // Something changed: draw at once, and all of it later.
  wake() {
    this.movedAt = performance.now();
    this.refining = null;
    this.state("moving");
    this.request();
  }

  state(name) {
    document.body.dataset.state = name;
  }

  request() {
    this.asked ??= requestAnimationFrame((now) => {
      this.asked = null;
      this.step(now);
    });
  }

  step(now) {
    // The first picture after a rest counts as one of a fast device, so that a tap of a key moves.
    const goesOn = this.navigator.advance((now - (this.before ?? now - 16)) / 1000);
    this.before = now;
    if (goesOn) this.movedAt = now;
    if (goesOn || this.refining === null) {
      if (goesOn || this.drawnAt !== this.movedAt) this.drawSmall();
      this.drawnAt = this.movedAt;
      if (!goesOn && now - this.movedAt > REST) this.refining = this.refine();
    } else if (this.refining.next().done) {
      this.before = undefined;
      return;
    }
    this.request();
  }

  fit() {
    const { canvas } = this, ratio = Math.min(devicePixelRatio, MOST_RATIO);
    const sides = [canvas.clientWidth, canvas.clientHeight].map((x) => Math.max(Math.round(x * ratio), 1));
    if (canvas.width !== sides[0]) canvas.width = sides[0];
    if (canvas.height !== sides[1]) canvas.height = sides[1];
    return sides;
  }

  drawSmall() {
    const sides = this.fit(), least = Math.min(LEAST_SIDE / Math.max(...sides), 1);
    this.scale = clamp(this.scale, least, 1);
    const [width, height] = sides.map((x) => Math.max(Math.round(x * this.scale), 1));
    const target = this.renderer.target("small", width, height), begun = performance.now();
    this.renderer.draw(target, this.navigator.look, this.view, { depths: this.depths });
    this.renderer.finish(target);
    this.scale *= Math.sqrt(clamp(FRAME / Math.max(performance.now() - begun, 1), 0.25, 2));
    this.put(target);
  }

  put(target) {
    this.renderer.present(target);
    this.photographs.draw(this.navigator.look);
    this.canvas.dataset.drawn = `${target.width} x ${target.height}`;
  }

  // All pixels, some rows at a time; given up when the camera moves.
  *refine() {
    this.state("refining");
    this.settle();
    const [width, height] = this.fit(), { look } = this.navigator, { renderer } = this;
    const target = renderer.target("whole", width, height);
    yield* this.inRows(target, look, {});
    this.put(target);
    if (this.smooths) {
      const smooth = renderer.target("smooth", width, height);
      yield* this.inRows(smooth, look, { first: target });
      this.put(smooth);
    }
    this.writeHash();
    this.state("resting");
  }

  *inRows(target, look, how) {
    let row = 0, rows = Math.max(Math.ceil(target.height / 16), 8);
    while (row < target.height) {
      const begun = performance.now();
      rows = Math.min(rows, target.height - row);
      this.renderer.draw(target, look, this.view, { depths: this.depths, row, rows, ...how });
      this.renderer.finish(target);
      row += rows;
      const took = Math.max(performance.now() - begun, 1);
      rows = Math.max(Math.round(rows * clamp(FRAME / took, 0.5, 2)), 1);
      yield;
    }
  }

  // The depths that colours tell apart; and at first, how far away that is around which one moves.
  settle() {
    if (this.view !== "depth" && this.settled) return;
    const [width, height] = SAMPLE;
    const found = this.renderer.depths(this.navigator.look, width, height);
    const known = found.filter(Number.isFinite).sort();
    const at = (fraction) => known[Math.round(fraction * (known.length - 1))];
    if (known.length) this.depths = [at(0.02), Math.max(at(0.98), 1.001 * at(0.02))];
    const middle = found[(height / 2) * width + width / 2];
    if (!this.settled && this.scene.space.kind !== "bounded" && Number.isFinite(middle)) {
      this.navigator.distance = middle;
    }
    this.settled = true;
  }

  show(view) {
    this.view = view;
    this.controls.showView(view);
    if (view === "depth") this.settle();
    this.wake();
  }

  toggleCameras() {
    this.photographs.shown = !this.photographs.shown;
    this.wake();
    return this.photographs.shown;
  }

  goHome() {
    const { home } = this.navigator;
    this.navigator.flyTo({ ...home, half: this.navigator.halfFor(this.scene.home) });
  }

  hover({ offsetX, offsetY, buttons }) {
    const found = buttons ? -1 : this.photographs.at(offsetX, offsetY, this.navigator.look);
    if (found === this.photographs.hovered) return;
    this.photographs.hovered = found;
    this.canvas.style.cursor = found < 0 ? "" : "pointer";
    this.controls.say(found < 0 ? "" : this.photographs.cameras[found].name, 0);
    this.photographs.draw(this.navigator.look);
  }

  flyToPhotograph(x, y, kind) {
    const { navigator, scene } = this;
    const camera = this.photographs.cameras[this.photographs.at(x, y, navigator.look, kind)];
    if (!camera) return;
    this.controls.say(camera.name);
    const ahead = dot(add(camera.pose.position, scene.middle, -1), camera.pose.back);
    const distance = scene.space.kind !== "ndc" && ahead > 0 ? ahead : navigator.distance;
    navigator.flyTo({ pose: camera.pose, distance, half: navigator.halfFor(camera) });
  }

  // Turn towards what is seen somewhere, and move around it from now on.
  lookAt(x, y) {
    const { pose, half } = this.navigator, { clientWidth, clientHeight } = this.canvas;
    const width = 65, height = Math.max(Math.round((width * clientHeight) / clientWidth), 1);
    const found = this.renderer.depths({ pose, half }, width, height);
    const column = clamp(Math.floor((x * width) / clientWidth), 0, width - 1);
    const row = clamp(Math.floor((y * height) / clientHeight), 0, height - 1);
    const depth = found[row * width + column], focal = Math.min(clientWidth, clientHeight) / (2 * half);
    if (!Number.isFinite(depth)) return;
    const across = times(pose.right, ((x - clientWidth / 2) / focal) * depth);
    const down = times(pose.up, ((clientHeight / 2 - y) / focal) * depth);
    const point = add(add(add(pose.position, across), down), pose.back, -depth);
    const back = unit(add(pose.position, point, -1)), right = unit(cross(this.scene.up, back));
    const turned = { right, up: cross(back, right), back, position: pose.position };
    this.navigator.flyTo({ pose: turned, distance: length(add(pose.position, point, -1)) });
  }

  // The view in the address: in the user's frame, the position, the quaternion (x, y, z, w), the angle of
  // the shorter side in degrees, and the distance of what one moves around.
  writeHash() {
    const { navigator, frame, view } = this, pose = frame.toUser(navigator.pose);
    const angle = (Math.atan(navigator.half) * 360) / Math.PI;
    // A position may be millions from the origin: as many digits as the scene's size wants.
    const digits = clamp(Math.ceil(6 - Math.log10(this.scene.size * frame.scale)), 0, 20);
    const position = pose.position.map((x) => Number(x.toFixed(digits)));
    const others = [...quaternionFromPose(pose), angle, navigator.distance * frame.scale];
    const numbers = [...position, ...others.map((x) => Number(x.toPrecision(7)))];
    this.hash = `#at=${numbers.join(",")}&view=${view}`;
    if (location.hash !== this.hash) location.replace(this.hash);
  }

  readHash() {
    if (!location.hash || location.hash === this.hash) return;
    const said = new URLSearchParams(location.hash.slice(1));
    const numbers = (said.get("at") ?? "").split(",").map(Number);
    const [angle, distance] = numbers.slice(7);
    if (numbers.length !== 9 || !numbers.every(Number.isFinite) || !(angle > 0 && angle < 180)) return;
    if (!(distance > 0) || !(Math.hypot(...numbers.slice(3, 7)) > 0)) return;
    const pose = this.frame.fromUser(poseFromQuaternion(numbers.slice(3, 7), numbers.slice(0, 3)));
    this.settled = true;
    const half = Math.tan((angle * Math.PI) / 360);
    this.navigator.place({ pose, half, distance: distance / this.frame.scale });
    if (said.get("view") in VIEWS && said.get("view") !== "distance") this.show(said.get("view"));
  }
}

// For programs: pictures of any size, and poses as jaxnerf has them.
class Interface {
  constructor(viewer) {
    this.viewer = viewer;
  }

  // matrix: camera-to-world, three or four rows, in the user's frame; fov: of the width, in degrees.
  setPose(matrix, fov, width, height) {
    const pose = this.viewer.frame.fromUser(poseFromRows(matrix));
    const half = Math.tan((fov * Math.PI) / 360) * Math.min(1, height / width);
    this.viewer.navigator.place({ pose, half });
    this.size = [width, height];
  }

  // Draw all of the picture, in the size that was set.
  draw() {
    const { viewer } = this, { renderer, view, depths, navigator: { look } } = viewer;
    this.drawn = renderer.target("first", ...this.size);
    renderer.draw(this.drawn, look, view, { depths });
    if (viewer.smooths) {
      const first = this.drawn;
      this.drawn = renderer.target("drawn", ...this.size);
      renderer.draw(this.drawn, look, view, { first });
    }
    viewer.fit();
    viewer.put(this.drawn);
  }

  // Of the picture drawn last: RGBA, row by row from the top.
  pixels() {
    return this.viewer.renderer.read(this.drawn);
  }

  // Depths along the viewing axis in the user's unit, row by row from the top; Infinity for nothing.
  depths() {
    const found = this.viewer.renderer.depths(this.viewer.navigator.look, ...this.size);
    return found.map((x) => x * this.viewer.frame.scale);
  }

  show(view) {
    this.viewer.show(view);
  }

  // The camera path that was recorded, as it is saved.
  get path() {
    return this.viewer.path.contents();
  }

  // Camera-to-world of what is shown, in the user's frame.
  get pose() {
    return rowsFromPose(this.viewer.frame.toUser(this.viewer.navigator.pose));
  }

  // The photographs' cameras: names, poses in the user's frame, and where they appear on the page.
  get photographs() {
    const { photographs, navigator: { look }, frame } = this.viewer;
    return photographs.cameras.map((camera) => ({
      name: camera.name,
      pose: rowsFromPose(frame.toUser(camera.pose)),
      at: photographs.outline(camera, look)?.[0] ?? null,
    }));
  }
}

async function begin() {
  const notice = document.getElementById("notice");
  try {
    const element = document.getElementById("scene");
    const scene = await readScene(element.textContent);
    element.remove();
    notice.textContent = "";
    window.jaxnerf = new Interface(new Viewer(scene));
  } catch (error) {
    notice.textContent = error.message;
    document.body.dataset.state = "failed";
    console.error(error);
  }
}

begin();
