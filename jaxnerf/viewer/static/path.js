// A camera path: recorded by standing somewhere, and somewhere else; previewed, and saved for `jaxnerf render`.

const KEY_SECONDS = 2; // from one key frame to the next
const RATE = 30; // frames a second
const SHORTER_SIDE = 720; // of a frame, in pixels
const LINE_STEPS = 24; // of the line that is drawn from one key frame to the next

// Between b and c, a cubic that goes on evenly through all four (Catmull and Rom, 1974).
const cubic = (a, b, c, d, t) =>
  b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)));

const some = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

class CameraPath {
  // viewer: see viewer.js.
  constructor(viewer) {
    // Of each key frame, in the scene's frame: the position, the quaternion, and the half as in navigator.js.
    Object.assign(this, { viewer, keys: [], placed: null });
    const find = (name) => document.getElementById(name);
    Object.assign(this, { words: find("pathwords"), link: find("pathlink") });
    const actions = { addkey: "add", dropkey: "drop", playpath: "play", savepath: "save" };
    for (const [name, act] of Object.entries(actions)) find(name).addEventListener("click", () => this[act]());
    this.changed();
  }

  add() {
    const { pose, half } = this.viewer.navigator, before = this.keys.at(-1);
    let quaternion = quaternionFromPose(pose);
    // The shorter way around.
    if (before && quaternion.reduce((sum, x, i) => sum + x * before[3 + i], 0) < 0) {
      quaternion = times(quaternion, -1);
    }
    this.keys.push([...pose.position, ...quaternion, half]);
    this.changed();
  }

  drop() {
    this.keys.pop();
    this.changed();
  }

  get seconds() {
    return KEY_SECONDS * Math.max(this.keys.length - 1, 0);
  }

  // How many frames there are; the first and the last are key frames.
  get count() {
    return Math.round(this.seconds * RATE) + (this.keys.length > 0);
  }

  // Where the path is at a part of it, from 0 to 1.
  at(part) {
    const { keys } = this, last = keys.length - 1, time = part * last;
    const first = clamp(Math.floor(time), 0, Math.max(last - 1, 0));
    const near = [-1, 0, 1, 2].map((offset) => keys[clamp(first + offset, 0, last)]);
    const numbers = near[1].map((_, i) => cubic(...near.map((key) => key[i]), time - first));
    const pose = poseFromQuaternion(numbers.slice(3, 7), numbers.slice(0, 3));
    return { pose, half: Math.max(numbers[7], 1e-3) };
  }

  changed() {
    const { keys, viewer } = this, steps = LINE_STEPS * (keys.length - 1);
    this.words.textContent = keys.length
      ? `${some(keys.length, "key frame")}, ${some(this.count, "frame")}`
      : "Stand somewhere, add a key frame, and go on.";
    viewer.photographs.line = steps > 0
      ? Array.from({ length: steps + 1 }, (_, i) => this.at(i / steps).pose.position)
      : [];
    viewer.photographs.draw(viewer.navigator.look);
  }

  // Fly along; whatever else moves the camera ends it, and so does another press.
  play() {
    const { navigator } = this.viewer, begun = performance.now(), { seconds } = this;
    if (!this.keys.length || this.placed === navigator.pose) {
      this.placed = null;
      return;
    }
    const goOn = () => {
      const part = seconds ? Math.min((performance.now() - begun) / 1000 / seconds, 1) : 1;
      navigator.place(this.at(part));
      this.placed = part < 1 ? navigator.pose : null;
      if (part < 1) requestAnimationFrame(() => this.placed === navigator.pose && goOn());
    };
    goOn();
  }

  // In nerfstudio's layout, in the user's frame; angles are those from the upper to the lower edge.
  contents() {
    const { canvas, frame } = this.viewer, { clientWidth, clientHeight } = canvas;
    const scale = SHORTER_SIDE / Math.min(clientWidth, clientHeight);
    // Encoders of videos want even sides.
    const [width, height] = [clientWidth, clientHeight].map((x) => 2 * Math.round((x * scale) / 2));
    const matrix = (pose) => [...rowsFromPose(frame.toUser(pose)).flat(), 0, 0, 0, 1];
    const others = ({ half }) => ({
      fov: (Math.atan((half * height) / Math.min(width, height)) * 360) / Math.PI, aspect: width / height,
    });
    const { count, keys } = this, all = Array.from({ length: count }, (_, i) => this.at(i / Math.max(count - 1, 1)));
    const at = keys.map((_, i) => this.at(i / Math.max(keys.length - 1, 1)));
    return {
      camera_type: "perspective",
      render_width: width,
      render_height: height,
      fps: RATE,
      seconds: count / RATE,
      is_cycle: false,
      smoothness_value: 0,
      default_fov: keys.length ? others(at[0]).fov : 50,
      default_transition_sec: KEY_SECONDS,
      keyframes: at.map((key) => ({
        matrix: matrix(key.pose), ...others(key), override_transition_enabled: false, override_transition_sec: null,
      })),
      camera_path: all.map((each) => ({ camera_to_world: matrix(each.pose), ...others(each) })),
    };
  }

  save() {
    if (!this.keys.length) return;
    const text = JSON.stringify(this.contents());
    URL.revokeObjectURL(this.link.href);
    this.link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    this.link.click();
  }
}
