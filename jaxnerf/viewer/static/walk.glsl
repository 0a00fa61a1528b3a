// How rays go through the grid of cells: the same walk as jaxnerf.sampling.traversal, in a coordinate s.

uniform highp usampler3D u_cells;  // 0 where something is, else the distance to it in cells
uniform int u_cells_a_side;
uniform vec3 u_grid_origin;
uniform float u_cell, u_step, u_near;

struct Walk {
  float begin, end, step;
  vec3 start, direction;  // in the space of the grid, where rays are straight
  float middle, scale, passing, even, fastest;  // of the arc length, where they are not
  float rate;  // by which a density of the space, times a step, is an optical depth
};

const float FARTHEST = 1e5, HORIZON = 1e3, CLOSEST = 1e-3;

#if SPACE == SPHERE

uniform vec3 u_centre;
uniform float u_radius;

// jaxnerf.contraction.RayArcLength
float arc_of(Walk walk, float t) {
  float u = clamp((t - walk.middle) * walk.scale, -FARTHEST, FARTHEST);
  float b = walk.passing, far = abs(u);
  float tangent = max(far - walk.even, 0.0) / (b * b + far * walk.even);
  return sign(u) * (min(far, walk.even) + walk.fastest * atan(tangent * b) / b);
}

float t_of(Walk walk, float s) {
  float b = walk.passing, far = abs(s);
  float angle = max(far - walk.even, 0.0) / walk.fastest * b;
  float tangent = tan(min(angle, 1.57079533)) / b;
  float left = max(1.0 - tangent * walk.even, 1.0 / FARTHEST);
  float beyond = min((walk.even + tangent * b * b) / left, FARTHEST);
  return walk.middle + sign(s) * (far > walk.even ? beyond : far) / walk.scale;
}

float t_of_sample(Walk walk, float s) {
  return max(min(t_of(walk, s), walk.middle + HORIZON / walk.scale), u_near);
}

// Contracted space, in radii: mip-NeRF 360, eq. 10.
vec3 contracted(vec3 world) {
  vec3 offset = (world - u_centre) / u_radius;
  float square = max(dot(offset, offset), 1.0);
  return offset * ((2.0 * sqrt(square) - 1.0) / square);
}

Walk walk_along(vec3 origin, vec3 direction) {
  Walk walk;
  vec3 start = (origin - u_centre) / u_radius;
  float speed = length(direction);
  float along = -dot(start, direction) / (speed * speed);
  walk.passing = max(length(start + along * direction), CLOSEST);
  float square = walk.passing * walk.passing;
  walk.fastest = sqrt(1.0 + 4.0 * square);
  walk.even = sqrt(max(walk.fastest - square, 0.0));
  walk.middle = along * u_radius;
  walk.scale = speed / u_radius;
  walk.step = u_step;
  walk.begin = arc_of(walk, u_near);
  walk.end = arc_of(walk, 1e30);
  walk.start = origin;
  walk.direction = direction;
  walk.rate = 1.0;
  return walk;
}

vec3 place_at(Walk walk, float s) {
  return contracted(walk.start + t_of(walk, s) * walk.direction);
}

// No point of a ray moves faster than its arc length grows.
float jump(Walk walk, vec3 place, vec3 corner, float empty) {
  vec3 wall = min(place - (corner + 1.0 - empty), corner + empty - place);
  return min(wall.x, min(wall.y, wall.z)) * u_cell;
}

vec3 place_of_sample(Walk walk, float t) {
  return contracted(walk.start + t * walk.direction);
}

// How long a step is in contracted space, in its own lengths, isotropic.
float length_of_step(Walk walk, float t) {
  vec3 offset = (walk.start + t * walk.direction - u_centre) / u_radius;
  float square = dot(offset, offset);
  return u_step * max(1.0, square / walk.fastest) / max(square, 1.0);
}

// The direction of a gradient in the world, from that in contracted space.
vec3 gradient_in_world(vec3 world, vec3 gradient, float density) {
  vec3 offset = (world - u_centre) / u_radius;
  float square = dot(offset, offset), r = sqrt(square);
  if (r <= 1.0) return gradient;
  float stretch = (2.0 * r - 1.0) / square, bend = (2.0 - 2.0 * r) / (square * square);
  vec3 moved = stretch * gradient + bend * dot(offset, gradient) * offset;
  return moved / square - 2.0 * density / (square * square) * offset;
}

#else

uniform vec3 u_scale;  // of normalised device coordinates: x, y, and the near plane

bool through_cube(inout Walk walk, float near, float far) {
  vec3 start = (walk.start - u_grid_origin) / u_cell, direction = walk.direction / u_cell;
  vec3 safe = mix(direction, vec3(1e-9), lessThan(abs(direction), vec3(1e-9)));
  vec3 first = -start / safe, second = (float(u_cells_a_side) - start) / safe;
  vec3 low = min(first, second), high = max(first, second);
  walk.begin = max(max(low.x, max(low.y, low.z)), near);
  walk.end = min(min(high.x, min(high.y, high.z)), far);
  walk.step = u_step / length(walk.direction);
  return walk.begin < walk.end;
}

vec3 place_at(Walk walk, float s) {
  return walk.start + s * walk.direction;
}

// Out of the cube of cells that are known to be empty, by its nearest wall.
float jump(Walk walk, vec3 place, vec3 corner, float empty) {
  vec3 direction = walk.direction / u_cell;
  vec3 safe = mix(direction, vec3(1e-9), lessThan(abs(direction), vec3(1e-9)));
  vec3 wall = mix(corner + 1.0 - empty, corner + empty, greaterThan(safe, vec3(0.0)));
  vec3 until = (wall - place) / safe;
  return min(until.x, min(until.y, until.z));
}

#if SPACE == NDC

// jaxnerf.contraction.NdcSpace: NeRF, appendix C.
Walk walk_along(vec3 origin, vec3 direction) {
  Walk walk;
  bool forward = direction.z < -1e-6 * length(direction);
  float level = forward ? direction.z : -1.0, near = u_scale.z;
  vec3 start = origin - (near + origin.z) / level * vec3(direction.xy, level);
  walk.start = vec3(u_scale.xy * start.xy / start.z, 1.0 + 2.0 * near / start.z);
  walk.direction = vec3(u_scale.xy * (direction.xy / level - start.xy / start.z), -2.0 * near / start.z);
  walk.middle = -(near + origin.z) / level;
  walk.scale = -near / level;
  float first = 1.0 - near / max(-(origin.z + u_near * level), near);
  if (!through_cube(walk, first, forward ? 1.0 : first)) walk.end = walk.begin;
  walk.rate = 2.0 * length(direction) / (max(-direction.z, 1e-12) * length(walk.direction));
  return walk;
}

float t_of_sample(Walk walk, float s) {
  float cube = min(s, 1.0 - 1.0 / HORIZON);
  return max(walk.middle + walk.scale * cube / max(1.0 - cube, 1.0 / FARTHEST), u_near);
}

vec3 place_of_sample(Walk walk, float t) {
  float past = (t - walk.middle) / walk.scale;
  return place_at(walk, past / (1.0 + past));
}

vec3 gradient_in_world(vec3 world, vec3 gradient, float density) {
  float z = min(world.z, -1e-6 * u_scale.z), near = u_scale.z;
  vec2 flat_gradient = u_scale.xy * gradient.xy;
  float deep = -dot(flat_gradient, world.xy) / (z * z) - 2.0 * near * gradient.z / (z * z);
  // The rate, 2 near / z^2, times the first; and its own gradient, times the density.
  return vec3(flat_gradient / z, deep) - vec3(0.0, 0.0, 2.0 * density / z);
}

#else

Walk walk_along(vec3 origin, vec3 direction) {
  Walk walk;
  walk.start = origin;
  walk.direction = direction;
  walk.rate = 1.0;
  if (!through_cube(walk, u_near, 1e30)) walk.end = walk.begin;
  return walk;
}

float t_of_sample(Walk walk, float s) { return s; }

vec3 place_of_sample(Walk walk, float t) { return place_at(walk, t); }

vec3 gradient_in_world(vec3 world, vec3 gradient, float density) { return gradient; }

#endif

float length_of_step(Walk walk, float t) { return u_step * walk.rate; }

#endif
