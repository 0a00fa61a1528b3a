// Vectors of three numbers, poses, and where a camera of the user's frame lies in the scene's.
// A pose has OpenGL axes, as everywhere in jaxnerf: right, up and back are unit vectors.

const add = (a, b, by = 1) => a.map((x, i) => x + by * b[i]);
const times = (a, by) => a.map((x) => x * by);
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const length = (a) => Math.hypot(...a);
const unit = (a) => times(a, 1 / Math.max(length(a), 1e-12));
const cross = (a, b) => [
  a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0],
];
const clamp = (x, low, high) => Math.min(Math.max(x, low), high);

// A vector, turned by an angle around a unit axis (Rodrigues).
function turned(vector, axis, angle) {
  const along = times(axis, dot(axis, vector) * (1 - Math.cos(angle)));
  return add(add(times(vector, Math.cos(angle)), along), cross(axis, vector), Math.sin(angle));
}

function turnedPose(pose, axis, angle, around = pose.position) {
  const [right, up, back] = [pose.right, pose.up, pose.back].map((v) => turned(v, axis, angle));
  return orthonormal({
    right, up, back, position: add(around, turned(add(pose.position, around, -1), axis, angle)),
  });
}

// What rounding has bent, straight again.
function orthonormal(pose) {
  const back = unit(pose.back);
  const right = unit(add(pose.right, back, -dot(pose.right, back)));
  return { right, up: cross(back, right), back, position: pose.position };
}

function poseFromRows(rows) {
  const column = (j) => [0, 1, 2].map((i) => rows[i][j]);
  return { right: column(0), up: column(1), back: column(2), position: column(3) };
}

const rowsFromPose = (pose) =>
  [0, 1, 2].map((i) => [pose.right[i], pose.up[i], pose.back[i], pose.position[i]]);

function quaternionFromPose({ right, up, back }) {
  const [xx, yy, zz] = [right[0], up[1], back[2]];
  const parts = [1 + xx - yy - zz, 1 - xx + yy - zz, 1 - xx - yy + zz, 1 + xx + yy + zz];
  const yz = up[2] + back[1], xz = back[0] + right[2], xy = right[1] + up[0];
  const wx = up[2] - back[1], wy = back[0] - right[2], wz = right[1] - up[0];
  const largest = parts.indexOf(Math.max(...parts));
  const rows = [
    [parts[0], xy, xz, wx], [xy, parts[1], yz, wy], [xz, yz, parts[2], wz], [wx, wy, wz, parts[3]],
  ];
  return times(rows[largest], 1 / Math.hypot(...rows[largest]));
}

function poseFromQuaternion(quaternion, position) {
  const [x, y, z, w] = times(quaternion, 1 / Math.hypot(...quaternion));
  return {
    right: [1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)],
    up: [2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)],
    back: [2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)],
    position,
  };
}

// Part of the way from one pose to another, the shorter way around.
function between(from, to, part) {
  const a = quaternionFromPose(from), b = quaternionFromPose(to);
  const sign = a.reduce((sum, x, i) => sum + x * b[i], 0) < 0 ? -1 : 1;
  const mixed = a.map((x, i) => (1 - part) * x + part * sign * b[i]);
  const position = add(from.position, add(to.position, from.position, -1), part);
  return poseFromQuaternion(mixed, position);
}

// The user's frame: scale * rotation * point + translation.
class UserFrame {
  constructor({ scale, rotation, translation }) {
    Object.assign(this, { scale, rotation, translation });
  }

  turn(vector) {
    return this.rotation.map((row) => dot(row, vector));
  }

  turnBack(vector) {
    return [0, 1, 2].map((j) => dot(this.rotation.map((row) => row[j]), vector));
  }

  toUser(pose) {
    const [right, up, back] = [pose.right, pose.up, pose.back].map((v) => this.turn(v));
    const position = add(this.translation, this.turn(pose.position), this.scale);
    return { right, up, back, position };
  }

  fromUser(pose) {
    const [right, up, back] = [pose.right, pose.up, pose.back].map((v) => this.turnBack(v));
    const moved = add(pose.position, this.translation, -1);
    return { right, up, back, position: times(this.turnBack(moved), 1 / this.scale) };
  }
}
