// The cameras of the photographs, as small frusta over the picture.

const DEEP = 0.06; // of the scene's size
const NEAREST = 2.5; // in depths of a frustum: nearer ones would fill the picture
const REACH = { mouse: 16, pen: 16, touch: 28 }; // pixels around a camera's position that belong to it
const EDGES = [[0, 1], [0, 2], [0, 3], [0, 4], [1, 2], [2, 3], [3, 4], [4, 1]];

class Photographs {
  constructor(scene, canvas) {
    const depth = DEEP * scene.size;
    Object.assign(this, { canvas, depth, shown: true, hovered: -1, line: [] });
    this.cameras = scene.cameras.map((camera) => {
      const pose = poseFromRows(camera.pose);
      const corner = (x, y) => {
        const across = times(pose.right, x * camera.halfWidth * depth);
        const down = times(pose.up, y * camera.halfHeight * depth);
        return add(add(add(pose.position, across), down), pose.back, -depth);
      };
      const points = [pose.position, corner(-1, 1), corner(1, 1), corner(1, -1), corner(-1, -1)];
      return { ...camera, pose, points };
    });
  }

  // Where a point appears, in pixels of the page; null if it is not before the camera.
  project(point, { pose, half }) {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const offset = add(point, pose.position, -1), depth = -dot(offset, pose.back);
    if (depth < 1e-6) return null;
    const focal = Math.min(width, height) / (2 * half * depth);
    return [width / 2 + focal * dot(offset, pose.right), height / 2 - focal * dot(offset, pose.up)];
  }

  // A camera's corners on the page; null if it is not to be seen whole, or too near.
  outline({ pose, points }, look) {
    const away = -dot(add(pose.position, look.pose.position, -1), look.pose.back);
    if (away < NEAREST * this.depth) return null;
    const seen = points.map((point) => this.project(point, look));
    return seen.every(Boolean) ? seen : null;
  }

  // Which camera a place on the page belongs to; -1 for none.
  at(x, y, look, kind) {
    if (!this.shown) return -1;
    let best = -1, nearest = REACH[kind] ?? REACH.mouse;
    this.cameras.forEach((camera, number) => {
      const seen = this.outline(camera, look);
      if (!seen) return;
      const away = Math.hypot(seen[0][0] - x, seen[0][1] - y);
      if (away < nearest) [best, nearest] = [number, away];
    });
    return best;
  }

  draw(look) {
    const { canvas } = this, ratio = devicePixelRatio, context = canvas.getContext("2d");
    canvas.width = Math.round(canvas.clientWidth * ratio);
    canvas.height = Math.round(canvas.clientHeight * ratio);
    context.scale(ratio, ratio);
    context.lineJoin = "round";
    if (this.shown) this.drawFrusta(context, look);
    this.drawLine(context, look);
  }

  drawFrusta(context, look) {
    const path = new Path2D(), chosen = new Path2D();
    this.cameras.forEach((camera, number) => {
      const seen = this.outline(camera, look);
      if (!seen) return;
      const lines = number === this.hovered ? chosen : path;
      EDGES.forEach(([from, to]) => {
        lines.moveTo(...seen[from]);
        lines.lineTo(...seen[to]);
      });
    });
    // Light upon dark, so that they show on any picture.
    const strokes = [[path, "#0006", 2.5], [path, "#fffc", 1], [chosen, "#000a", 4], [chosen, "#ffb454", 2]];
    for (const [lines, colour, width] of strokes) {
      Object.assign(context, { strokeStyle: colour, lineWidth: width });
      context.stroke(lines);
    }
  }

  // That of the camera path.
  drawLine(context, look) {
    const seen = this.line.map((point) => this.project(point, look)), lines = new Path2D();
    seen.forEach((place, number) => {
      if (!place || !seen[number - 1]) return;
      lines.moveTo(...seen[number - 1]);
      lines.lineTo(...place);
    });
    Object.assign(context, { strokeStyle: "#ffb454", lineWidth: 2 });
    context.stroke(lines);
  }
}
