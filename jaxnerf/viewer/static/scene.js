// The scene as it stands in the page, and the textures that are made of it.

const ARRAYS = { uint8: Uint8Array, uint16: Uint16Array, float32: Float32Array };
const BRICK = 4, BLOCK = 5, POINTS = BRICK ** 3;

async function readScene(base64) {
  const binary = atob(base64.trim());
  const packed = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) packed[i] = binary.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const data = await new Response(stream).arrayBuffer();
  const size = new DataView(data).getUint32(0, true);
  const scene = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, size)));
  for (const [name, { type, offset, length }] of Object.entries(scene.buffers)) {
    scene.buffers[name] = new ARRAYS[type](data, 4 + size + offset, length);
  }
  return scene;
}

// The bricks, each with the first points of the bricks behind it, one beside the other: what the
// hardware then interpolates is what lies between the lattice's points. Numbers are of 16 bits.
class Atlas {
  constructor(scene) {
    const { kept, codes, values } = scene.buffers;
    this.groups = Math.ceil(scene.network.features / 4);
    this.numbers = new Int32Array(kept.length).fill(-1);
    this.count = 0;
    kept.forEach((it, i) => { if (it) this.numbers[i] = this.count++; });
    // Of blocks; all groups of features lie behind one another.
    const side = Math.max(1, Math.ceil(Math.cbrt(this.count * this.groups)));
    this.blocks = [side, side, Math.max(1, Math.ceil(this.count / side ** 2))];
    this.size = this.blocks.map((x) => x * BLOCK);
    const texels = this.size[0] * this.size[1] * this.size[2];
    this.index = new Uint8Array(4 * kept.length);
    this.density = new Uint16Array(texels);
    this.features = new Uint16Array(4 * texels * this.groups);
    const channels = Array.from({ length: scene.network.features + 1 }, (_, c) => ({
      codes: codes.subarray(c * this.count * POINTS, (c + 1) * this.count * POINTS),
      values: values.subarray(256 * c, 256 * (c + 1)),
    }));
    const [, sideY, sideZ] = scene.lattice.bricks;
    for (let at = 0; at < kept.length; at++) {
      if (this.numbers[at] < 0) continue;
      const around = this.bricksBehind(at, scene.lattice.bricks, sideZ, sideY * sideZ);
      this.fillBlock(at, around, channels, texels, scene.lattice.nothing);
    }
  }

  // The number of a brick, and those of the seven behind it along x, y and z; -1 where there is none.
  bricksBehind(at, [sideX, sideY, sideZ], stepY, stepX) {
    const z = at % sideZ, y = Math.floor(at / stepY) % sideY, x = Math.floor(at / stepX);
    const around = new Int32Array(8);
    for (let corner = 0; corner < 8; corner++) {
      const dx = corner >> 2, dy = (corner >> 1) & 1, dz = corner & 1;
      const inside = x + dx < sideX && y + dy < sideY && z + dz < sideZ;
      around[corner] = inside ? this.numbers[at + dx * stepX + dy * stepY + dz] : -1;
    }
    return around;
  }

  fillBlock(at, around, channels, texels, nothing) {
    const number = this.numbers[at], [across, down] = this.blocks;
    const block = [
      number % across, Math.floor(number / across) % down, Math.floor(number / (across * down)),
    ];
    this.index.set([...block, 1], 4 * at);
    for (let x = 0; x < BLOCK; x++) {
      for (let y = 0; y < BLOCK; y++) {
        for (let z = 0; z < BLOCK; z++) {
          const source = around[((x >> 2) << 2) | ((y >> 2) << 1) | (z >> 2)];
          const row = (block[2] * BLOCK + x) * this.size[1] + block[1] * BLOCK + y;
          const texel = row * this.size[0] + block[0] * BLOCK + z;
          if (source < 0) {
            this.density[texel] = nothing;
            continue;
          }
          const point = source * POINTS + ((((x & 3) << 2) | (y & 3)) << 2) + (z & 3);
          this.density[texel] = channels[0].values[channels[0].codes[point]];
          for (let c = 1; c < channels.length; c++) {
            const group = (c - 1) >> 2, place = 4 * (group * texels + texel) + ((c - 1) & 3);
            this.features[place] = channels[c].values[channels[c].codes[point]];
          }
        }
      }
    }
  }
}
