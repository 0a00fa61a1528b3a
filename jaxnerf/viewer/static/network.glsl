// The network that sees the direction: jaxnerf.fields.voxels.VoxelField.colour.

uniform highp sampler2D u_weights;

const int HARMONICS = (DEGREE + 1) * (DEGREE + 1), INPUTS = FEATURES + HARMONICS, UNITS = WIDTH / 4;

vec4 weights(int number) {
  return texelFetch(u_weights, ivec2(number & 255, number >> 8), 0);
}

// Real spherical harmonics without the Condon-Shortley phase (Sloan, "Stupid Spherical Harmonics
// Tricks", 2008, appendix A2).
void tell_direction(vec3 d, inout float inputs[INPUTS]) {
  float x = d.x, y = d.y, z = d.z, xx = x * x, yy = y * y, zz = z * z;
  inputs[FEATURES] = 0.28209479;
#if DEGREE > 0
  inputs[FEATURES + 1] = 0.48860251 * y;
  inputs[FEATURES + 2] = 0.48860251 * z;
  inputs[FEATURES + 3] = 0.48860251 * x;
#endif
#if DEGREE > 1
  inputs[FEATURES + 4] = 1.09254843 * x * y;
  inputs[FEATURES + 5] = 1.09254843 * y * z;
  inputs[FEATURES + 6] = 0.31539157 * (3.0 * zz - 1.0);
  inputs[FEATURES + 7] = 1.09254843 * x * z;
  inputs[FEATURES + 8] = 0.54627422 * (xx - yy);
#endif
#if DEGREE > 2
  inputs[FEATURES + 9] = 0.59004359 * y * (3.0 * xx - yy);
  inputs[FEATURES + 10] = 2.89061144 * x * y * z;
  inputs[FEATURES + 11] = 0.45704580 * y * (5.0 * zz - 1.0);
  inputs[FEATURES + 12] = 0.37317633 * z * (5.0 * zz - 3.0);
  inputs[FEATURES + 13] = 0.45704580 * x * (5.0 * zz - 1.0);
  inputs[FEATURES + 14] = 1.44530572 * z * (xx - yy);
  inputs[FEATURES + 15] = 0.59004359 * x * (xx - 3.0 * yy);
#endif
#if DEGREE > 3
  inputs[FEATURES + 16] = 2.50334294 * x * y * (xx - yy);
  inputs[FEATURES + 17] = 1.77013077 * y * z * (3.0 * xx - yy);
  inputs[FEATURES + 18] = 0.94617470 * x * y * (7.0 * zz - 1.0);
  inputs[FEATURES + 19] = 0.66904654 * y * z * (7.0 * zz - 3.0);
  inputs[FEATURES + 20] = 0.10578555 * (zz * (35.0 * zz - 30.0) + 3.0);
  inputs[FEATURES + 21] = 0.66904654 * x * z * (7.0 * zz - 3.0);
  inputs[FEATURES + 22] = 0.47308735 * (xx - yy) * (7.0 * zz - 1.0);
  inputs[FEATURES + 23] = 1.77013077 * x * z * (xx - 3.0 * yy);
  inputs[FEATURES + 24] = 0.62583574 * (xx * (xx - 3.0 * yy) - yy * (3.0 * xx - yy));
#endif
}

vec4 times(int at, vec4 units) {
  return mat4(weights(at), weights(at + 1), weights(at + 2), weights(at + 3)) * units;
}

// The colour of features, seen along a unit direction.
vec3 colour_of(vec4 features[GROUPS], vec3 direction) {
  float inputs[INPUTS];
  for (int i = 0; i < FEATURES; i++) inputs[i] = features[i >> 2][i & 3];
  tell_direction(direction, inputs);
  vec4 first[UNITS], second[UNITS];
  int at = 0;
  for (int j = 0; j < UNITS; j++) {
    vec4 sum = weights(at++);
    for (int i = 0; i < INPUTS; i++) sum += inputs[i] * weights(at++);
    first[j] = max(sum, 0.0);
  }
  for (int j = 0; j < UNITS; j++) {
    vec4 sum = weights(at++);
    for (int i = 0; i < UNITS; i++, at += 4) sum += times(at, first[i]);
    second[j] = max(sum, 0.0);
  }
  vec4 logit = weights(at++);
  for (int i = 0; i < UNITS; i++, at += 4) logit += times(at, second[i]);
  return 1.0 / (1.0 + exp(-(logit.rgb + features[0].rgb)));
}
