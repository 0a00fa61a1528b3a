// What a pixel sees. The field is a lattice of vertices in bricks of 4 x 4 x 4, each in the atlas with the
// first vertices of the bricks behind it, so that the hardware interpolates.

uniform highp usampler3D u_bricks;  // of each brick its place in the atlas, and whether there is one
uniform highp sampler3D u_density, u_features;
uniform sampler2D u_first;  // the picture of one ray a pixel
uniform ivec3 u_bricks_a_side;
uniform vec3 u_lattice_origin, u_atlas;
uniform float u_spacing;

uniform vec3 u_position, u_background;
uniform mat3 u_rotation, u_to_user;
uniform vec2 u_size;
uniform float u_focal, u_rough, u_unit;
uniform vec2 u_depths;
uniform int u_view;

out vec4 result;

const int COLOUR = 0, DEPTH = 1, NORMALS = 2, OPACITY = 3, DISTANCE = 4;
const int MOST_LOOKS = 8192;
const float DARK = 1.0 / 1024.0, NOTHING = 1e-6;

struct Seen {
  vec3 colour, normal;
  float opacity, depth;
};

float softplus(float x) {
  return max(x, 0.0) + log(1.0 + exp(-abs(x)));
}

float logit_at(vec3 texel) {
  return textureLod(u_density, texel / u_atlas, 0.0).r;
}

// Where a place of the lattice lies in the atlas, whose axes are z, y, x; no brick, no texel.
bool find(vec3 lattice, out vec3 texel) {
  ivec3 brick = ivec3(floor(lattice)) >> 2;
  if (any(lessThan(brick, ivec3(0))) || any(greaterThanEqual(brick, u_bricks_a_side))) return false;
  uvec4 block = texelFetch(u_bricks, brick.zyx, 0);
  texel = vec3(block.xyz) * 5.0 + (lattice - 4.0 * vec3(brick)).zyx + 0.5;
  return block.w > 0u;
}

// The gradient, along the lattice's axes, of what is interpolated: between the walls of the voxel.
vec3 gradient_of_logit(vec3 texel) {
  vec3 low = floor(texel - 0.5) + 0.5, slope;
  for (int axis = 0; axis < 3; axis++) {
    vec3 before = texel, after = texel;
    before[axis] = low[axis];
    after[axis] = low[axis] + 1.0;
    slope[axis] = logit_at(after) - logit_at(before);
  }
  return slope.zyx;
}

vec3 unit(vec3 vector) {
  float square = dot(vector, vector);
  return square > 0.0 ? vector * inversesqrt(square) : vec3(0.0);
}

Seen look(vec3 direction) {
  Walk walk = walk_along(u_position, direction);
  vec4 features[GROUPS];
  for (int g = 0; g < GROUPS; g++) features[g] = vec4(0.0);
  vec3 colour = vec3(0.0), normal = vec3(0.0), seen_along = normalize(direction);
  float light = 1.0, opacity = 0.0, depth = 0.0, number = 0.0;
  float largest = float(u_cells_a_side) - 1.0;
  for (int looks = 0; looks < MOST_LOOKS && light > DARK; looks++) {
    float s = walk.begin + (number + 0.5) * walk.step;
    if (!(s < walk.end)) break;
    vec3 place = (place_at(walk, s) - u_grid_origin) / u_cell, corner = floor(place);
    uint empty = texelFetch(u_cells, ivec3(clamp(corner, 0.0, largest)).zyx, 0).r;
    if (empty > 0u) {
      number += max(ceil(jump(walk, place, corner, float(empty)) / walk.step), 1.0);
      continue;
    }
    number += 1.0;
    float t = t_of_sample(walk, s);
    vec3 texel, lattice = (place_of_sample(walk, t) - u_lattice_origin) / u_spacing;
    if (!find(lattice, texel)) continue;
    float logit = logit_at(texel);
#if DETAIL > 0
    Detail detail = detail_at(lattice, logit);
    logit += detail.full * detail.columns[FEATURES / 4][FEATURES % 4];
#endif
    float density = softplus(logit) / u_spacing;
    float stopped = density * length_of_step(walk, t);
    if (stopped < NOTHING) continue;
    float left = exp(-stopped), weight = light * (1.0 - left);
    light *= left;
    opacity += weight;
    depth += weight * t;
    if (u_view == NORMALS) {
      float slope = 1.0 / (1.0 + exp(-logit)) / u_spacing / u_spacing;
      vec3 world = u_position + t * direction;
      vec3 along = gradient_of_logit(texel);
#if DETAIL > 0
      along = detail.full * detail.slope + (1.0 + detail.growth) * along;
#endif
      vec3 gradient = slope * along;
      normal -= weight * unit(gradient_in_world(world, gradient, density));
    } else if (u_view == COLOUR) {
      vec4 here[GROUPS];
      for (int g = 0; g < GROUPS; g++) {
        vec3 stacked = vec3(texel.xy, texel.z + float(g) * u_atlas.z);
        here[g] = textureLod(u_features, stacked / vec3(u_atlas.xy, u_atlas.z * float(GROUPS)), 0.0);
#if DETAIL > 0
        here[g] += detail.full * detail.columns[g];
#endif
#if SHADE_SAMPLES == 0
        features[g] += weight * here[g];
#endif
      }
#if SHADE_SAMPLES == 1
      colour += weight * colour_of(here, seen_along);
#endif
    }
  }
#if SHADE_SAMPLES == 0
  if (u_view == COLOUR && opacity > NOTHING) {
    for (int g = 0; g < GROUPS; g++) features[g] /= max(opacity, 1e-3);
    colour = opacity * colour_of(features, seen_along);
  }
#endif
  return Seen(colour, unit(normal), opacity, opacity > 0.0 ? depth / opacity : -1.0);
}

Seen look_through(vec2 pixel) {
  vec2 plane = (pixel - 0.5 * u_size) / u_focal;
  return look(u_rotation * vec3(plane, -1.0));
}

vec3 over_background(Seen seen) {
  return clamp(seen.colour + (1.0 - seen.opacity) * u_background, 0.0, 1.0);
}

// From far to near: black, violet, red, orange, pale yellow.
vec3 colour_of_depth(float depth) {
  float closeness = clamp((u_depths.y - depth) / (u_depths.y - u_depths.x), 0.0, 1.0) * 4.0;
  vec3 stops[5] = vec3[5](
    vec3(0.0, 0.0, 4.0), vec3(81.0, 18.0, 124.0), vec3(183.0, 55.0, 121.0),
    vec3(252.0, 137.0, 97.0), vec3(252.0, 253.0, 191.0)
  );
  int below = min(int(closeness), 3);
  return mix(stops[below], stops[below + 1], closeness - float(below)) / 255.0;
}

// A depth in 24 bits, finer where it is near; 1 is infinite.
vec3 bits_of_depth(float depth) {
  float fraction = depth < 0.0 ? 1.0 : depth / (depth + u_unit);
  float whole = floor(min(fraction, 1.0) * 16777215.0 + 0.5);
  float high = floor(whole / 65536.0), middle = floor((whole - 65536.0 * high) / 256.0);
  return vec3(high, middle, whole - 65536.0 * high - 256.0 * middle) / 255.0;
}

vec3 first_at(ivec2 pixel) {
  return texelFetch(u_first, clamp(pixel, ivec2(0), ivec2(u_size) - 1), 0).rgb;
}

float differs(vec3 colour, ivec2 pixel) {
  vec3 by = abs(first_at(pixel) - colour);
  return max(by.r, max(by.g, by.b));
}

// By how much the picture differs, in a channel, from the pixel beside, above or below at most.
float contrast(vec3 colour, ivec2 pixel) {
  float across = max(differs(colour, pixel + ivec2(1, 0)), differs(colour, pixel - ivec2(1, 0)));
  float along = max(differs(colour, pixel + ivec2(0, 1)), differs(colour, pixel - ivec2(0, 1)));
  return max(across, along);
}

// Four rays where the first picture is rough: a square that is turned, so that no two share a row.
void main() {
  vec2 turned[4] = vec2[4](vec2(-1.0, 3.0), vec2(3.0, 1.0), vec2(1.0, -3.0), vec2(-3.0, -1.0));
  int rays = 1;
  if (u_rough > 0.0) {
    vec3 colour = first_at(ivec2(gl_FragCoord.xy));
    result = vec4(colour, 1.0);
    if (contrast(colour, ivec2(gl_FragCoord.xy)) <= u_rough) return;
    rays = 4;
  }
  Seen seen;
  vec3 sum = vec3(0.0);
  for (int ray = 0; ray < rays; ray++) {
    seen = look_through(gl_FragCoord.xy + (rays > 1 ? turned[ray] / 8.0 : vec2(0.0)));
    sum += over_background(seen);
  }
  result = vec4(sum / float(rays), 1.0);
  if (u_view == DEPTH) result.rgb = colour_of_depth(seen.depth) * seen.opacity;
  if (u_view == NORMALS) result.rgb = 0.5 + 0.5 * (u_to_user * seen.normal) * seen.opacity;
  if (u_view == OPACITY) result.rgb = vec3(seen.opacity);
  if (u_view == DISTANCE) result = vec4(bits_of_depth(seen.depth), seen.opacity);
}
