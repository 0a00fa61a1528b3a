// The detail, a finer lattice whose vertices share the rows of a table by a hash: jaxnerf.fields.voxels.
// Columns 4 g to 4 g + 3 of row r are in the texel (r mod 1024, r div 1024 * DETAIL_GROUPS + g). The last
// column is that of the density's logit.

#if DETAIL > 0

uniform highp sampler2D u_detail;
uniform uint u_detail_mask;  // rows of the table, a power of 2, less 1

struct Detail {
  float full;  // the fraction of it that is added
  vec4 columns[DETAIL_GROUPS];
  vec3 slope;  // of the density's logit, along the lattice's axes
  float growth;  // of what is added to the logit, with the logit without detail
};

// What is added where the logit without detail is this.
Detail detail_at(vec3 lattice, float before) {
  vec3 fine = lattice * float(DETAIL), low = floor(fine), part = fine - low;
  Detail detail;
  detail.slope = vec3(0.0);
  for (int g = 0; g < DETAIL_GROUPS; g++) detail.columns[g] = vec4(0.0);
  for (int corner = 0; corner < 8; corner++) {
    ivec3 digits = ivec3(corner >> 2, (corner >> 1) & 1, corner & 1);
    uvec3 hashed = uvec3(ivec3(low) + digits) * uvec3(1u, 2654435761u, 805459861u);
    uint row = (hashed.x ^ hashed.y ^ hashed.z) & u_detail_mask;
    vec3 weight = mix(1.0 - part, part, vec3(digits));
    float logit = 0.0;
    for (int g = 0; g < DETAIL_GROUPS; g++) {
      vec4 columns = texelFetch(u_detail, ivec2(row & 1023u, int(row >> 10) * DETAIL_GROUPS + g), 0);
      detail.columns[g] += weight.x * weight.y * weight.z * columns;
      if (g == FEATURES / 4) logit = columns[FEATURES % 4];
    }
    vec3 beside = vec3(weight.y * weight.z, weight.x * weight.z, weight.x * weight.y);
    detail.slope += (2.0 * vec3(digits) - 1.0) * beside * logit * float(DETAIL);
  }
  float fraction = (before + 9.0) / 3.0;
  detail.full = clamp(fraction, 0.0, 1.0);
  float logit = detail.columns[FEATURES / 4][FEATURES % 4];
  detail.growth = fraction > 0.0 && fraction < 1.0 ? logit / 3.0 : 0.0;
  return detail;
}

#endif
