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
  // jaxnerf.kernels.interpolation.tetrahedral_corners
  ivec3 rank = ivec3(
    int(part.y > part.x) + int(part.z > part.x),
    int(part.x >= part.y) + int(part.z > part.y),
    int(part.x >= part.z) + int(part.y >= part.z)
  );
  float largest = max(part.x, max(part.y, part.z)), least = min(part.x, min(part.y, part.z));
  float middle = part.x + part.y + part.z - largest - least;
  float edges[5] = float[5](1.0, largest, middle, least, 0.0);
  Detail detail;
  detail.slope = vec3(0.0);
  for (int g = 0; g < DETAIL_GROUPS; g++) detail.columns[g] = vec4(0.0);
  for (int corner = 0; corner < 4; corner++) {
    uvec3 vertex = uvec3(ivec3(low) + ivec3(lessThan(rank, ivec3(corner))));
    uvec3 hashed = vertex * uvec3(1u, 2654435761u, 805459861u);
    uint row = (hashed.x ^ hashed.y ^ hashed.z) & u_detail_mask;
    float logit = 0.0;
    for (int g = 0; g < DETAIL_GROUPS; g++) {
      vec4 columns = texelFetch(u_detail, ivec2(row & 1023u, int(row >> 10) * DETAIL_GROUPS + g), 0);
      detail.columns[g] += (edges[corner] - edges[corner + 1]) * columns;
      if (g == FEATURES / 4) logit = columns[FEATURES % 4];
    }
    // Along an axis the logit grows from the corner where it is the next to the corner after that.
    vec3 sides = vec3(equal(rank + 1, ivec3(corner))) - vec3(equal(rank, ivec3(corner)));
    detail.slope += sides * logit * float(DETAIL);
  }
  // From _DETAIL_FROM on, in full after _FADE more: jaxnerf.fields.voxels.
  float fraction = (before + 9.0) / 3.0;
  detail.full = clamp(fraction, 0.0, 1.0);
  float logit = detail.columns[FEATURES / 4][FEATURES % 4];
  detail.growth = fraction > 0.0 && fraction < 1.0 ? logit / 3.0 : 0.0;
  return detail;
}

#endif
