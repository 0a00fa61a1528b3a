// Pictures of the scene, drawn by the shaders into textures.

const VIEWS = { colour: 0, depth: 1, normals: 2, opacity: 3, distance: 4 };
const SPACES = { bounded: 0, sphere: 1, ndc: 2 };
const CORNERS = "#version 300 es\nvoid main() {\n" +
  "  gl_Position = vec4(vec2(gl_VertexID & 1, gl_VertexID >> 1) * 4.0 - 1.0, 0.0, 1.0);\n}\n";
// A camera nearer to the middle than all photographs begins to see nearer; jaxnerf.runs.run.Run._bounds.
const LEAST_OF_NEAR = 1e-2;

class Renderer {
  constructor(canvas, scene) {
    const options = { alpha: false, antialias: false, depth: false, powerPreference: "high-performance" };
    this.gl = canvas.getContext("webgl2", options);
    if (!this.gl) throw new Error("This browser has no WebGL 2, which draws the scene.");
    Object.assign(this, { canvas, scene, targets: {} });
    const { network, space, detail } = scene;
    const defined = {
      BOUNDED: 0, SPHERE: 1, NDC: 2, SPACE: SPACES[space.kind], FEATURES: network.features,
      GROUPS: Math.ceil(network.features / 4), DEGREE: network.degree, WIDTH: network.width,
      SHADE_SAMPLES: Number(network.shading === "sample"),
      DETAIL: detail.finer, DETAIL_GROUPS: Math.ceil((network.features + 1) / 4),
    };
    this.look = this.program(["walk.glsl", "network.glsl", "detail.glsl", "look.glsl"], defined);
    this.stretch = this.program(["present.glsl"], {});
    this.upload(new Atlas(scene));
    this.setScene();
  }

  // A program of the page's shaders, one text after the other.
  program(names, defined) {
    const { gl } = this, program = gl.createProgram();
    const defines = Object.entries(defined).map(([name, value]) => `#define ${name} ${value}\n`);
    const precision = "precision highp float;\nprecision highp int;\nprecision highp sampler2D;\n";
    const source = names.map((name) => document.getElementById(name).textContent).join("\n");
    const texts = [CORNERS, "#version 300 es\n" + defines.join("") + precision + source];
    const shaders = [gl.VERTEX_SHADER, gl.FRAGMENT_SHADER].map((kind, i) => {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, texts[i]);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
      return shader;
    });
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) {
      const said = [...shaders.map((s) => gl.getShaderInfoLog(s)), gl.getProgramInfoLog(program)];
      throw new Error(`The graphics driver refused the page's program: ${said.join(" ").trim()}`);
    }
    const uniforms = {}, count = gl.getProgramParameter(program, gl.ACTIVE_UNIFORMS);
    for (let i = 0; i < count; i++) {
      const { name } = gl.getActiveUniform(program, i);
      uniforms[name] = gl.getUniformLocation(program, name);
    }
    return { program, uniforms };
  }

  upload(atlas) {
    const { gl, scene } = this, { weights, cells } = scene.buffers, side = scene.grid.size;
    const [sideX, sideY, sideZ] = scene.lattice.bricks, [x, y, z] = atlas.size;
    const most = gl.getParameter(gl.MAX_3D_TEXTURE_SIZE);
    if (Math.max(x, y, z * atlas.groups, side) > most) {
      throw new Error(`The scene needs textures of more than ${most} texels a side, this device's most.`);
    }
    this.atlas = atlas.size;
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    this.volume(0, [gl.R8UI, side, side, side, gl.RED_INTEGER, gl.UNSIGNED_BYTE, cells], gl.NEAREST);
    const index = [gl.RGBA8UI, sideZ, sideY, sideX, gl.RGBA_INTEGER, gl.UNSIGNED_BYTE, atlas.index];
    this.volume(1, index, gl.NEAREST);
    this.volume(2, [gl.R16F, x, y, z, gl.RED, gl.HALF_FLOAT, atlas.density], gl.LINEAR);
    const deep = z * atlas.groups;
    this.volume(3, [gl.RGBA16F, x, y, deep, gl.RGBA, gl.HALF_FLOAT, atlas.features], gl.LINEAR);
    this.flat(4, gl.RGBA32F, 256, weights.length / 1024, gl.RGBA, gl.FLOAT, weights, gl.NEAREST);
    if (scene.detail.finer) this.uploadDetail();
    scene.buffers = null;
  }

  // In rows of 1024 rows of the table, each with its columns in groups of four behind one another.
  uploadDetail() {
    const { gl, scene } = this, { detail, network } = scene, columns = network.features + 1;
    const groups = Math.ceil(columns / 4), across = Math.min(detail.rows, 1024), down = detail.rows / across;
    const most = gl.getParameter(gl.MAX_TEXTURE_SIZE);
    if (down * groups > most) {
      throw new Error(`The scene needs a texture of more than ${most} texels a side, this device's most.`);
    }
    const { detail_codes: codes, detail_values: values } = scene.buffers;
    const texels = new Uint16Array(4 * detail.rows * groups);
    for (let row = 0; row < detail.rows; row++) {
      const first = Math.floor(row / across) * groups * across + (row % across);
      for (let c = 0; c < columns; c++) {
        texels[4 * (first + (c >> 2) * across) + (c & 3)] = values[256 * c + codes[c * detail.rows + row]];
      }
    }
    this.flat(6, gl.RGBA16F, across, down * groups, gl.RGBA, gl.HALF_FLOAT, texels, gl.NEAREST);
  }

  volume(unit, [internal, width, height, depth, format, type, data], filter) {
    const { gl } = this;
    gl.activeTexture(gl.TEXTURE0 + unit);
    gl.bindTexture(gl.TEXTURE_3D, gl.createTexture());
    gl.texImage3D(gl.TEXTURE_3D, 0, internal, width, height, depth, 0, format, type, data);
    this.filter(gl.TEXTURE_3D, filter);
  }

  flat(unit, internal, width, height, format, type, data, filter) {
    const { gl } = this, texture = gl.createTexture();
    gl.activeTexture(gl.TEXTURE0 + unit);
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.texImage2D(gl.TEXTURE_2D, 0, internal, width, height, 0, format, type, data);
    this.filter(gl.TEXTURE_2D, filter);
    return texture;
  }

  filter(kind, filter) {
    const { gl } = this;
    gl.texParameteri(kind, gl.TEXTURE_MIN_FILTER, filter);
    gl.texParameteri(kind, gl.TEXTURE_MAG_FILTER, filter);
    for (const axis of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T, gl.TEXTURE_WRAP_R]) {
      gl.texParameteri(kind, axis, gl.CLAMP_TO_EDGE);
    }
  }

  // What does not change from picture to picture.
  setScene() {
    const { gl, scene } = this, { uniforms } = this.look, { grid, lattice, space, detail, toUser } = scene;
    gl.useProgram(this.look.program);
    ["u_cells", "u_bricks", "u_density", "u_features", "u_weights", "u_first"].forEach((name, unit) =>
      gl.uniform1i(uniforms[name], unit));
    gl.uniform1i(uniforms.u_cells_a_side, grid.size);
    gl.uniform3fv(uniforms.u_grid_origin, grid.origin);
    gl.uniform1f(uniforms.u_cell, grid.cell);
    gl.uniform1f(uniforms.u_step, grid.step);
    gl.uniform3iv(uniforms.u_bricks_a_side, lattice.bricks);
    gl.uniform3fv(uniforms.u_lattice_origin, lattice.origin);
    gl.uniform1f(uniforms.u_spacing, lattice.spacing);
    gl.uniform3fv(uniforms.u_atlas, this.atlas);
    gl.uniform3fv(uniforms.u_background, scene.background);
    gl.uniform1f(uniforms.u_unit, scene.size);
    gl.uniformMatrix3fv(uniforms.u_to_user, true, toUser.rotation.flat());
    if (detail.finer) {
      gl.uniform1i(uniforms.u_detail, 6);
      gl.uniform1ui(uniforms.u_detail_mask, detail.rows - 1);
    }
    if (space.kind === "sphere") {
      gl.uniform3fv(uniforms.u_centre, space.centre);
      gl.uniform1f(uniforms.u_radius, space.radius);
    }
    if (space.kind === "ndc") gl.uniform3fv(uniforms.u_scale, [...space.scale, space.near]);
  }

  near(position) {
    const { near, nearest, middle, space } = this.scene;
    const here = space.kind === "ndc" ? position[2] : length(add(position, middle, -1));
    return Math.max(near - Math.max(nearest - here, 0), LEAST_OF_NEAR * near);
  }

  // A texture of a size to draw into, kept by its name.
  target(name, width, height) {
    const { gl } = this, found = this.targets[name];
    if (found && found.width === width && found.height === height) return found;
    if (found) {
      gl.deleteTexture(found.texture);
      gl.deleteFramebuffer(found.frame);
    }
    const texture = this.flat(5, gl.RGBA8, width, height, gl.RGBA, gl.UNSIGNED_BYTE, null, gl.LINEAR);
    const frame = gl.createFramebuffer();
    gl.bindFramebuffer(gl.FRAMEBUFFER, frame);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
    return (this.targets[name] = { texture, frame, width, height });
  }

  // Draw some rows of a picture, from the bottom; or, where its edges are rough, of that with smooth ones.
  //   look: { pose, half }, half of the shorter side at depth 1; all in the scene's frame
  draw(target, look, view, { depths = [0, 1], first = null, row = 0, rows = target.height } = {}) {
    const { gl } = this, { uniforms } = this.look, { right, up, back, position } = look.pose;
    gl.useProgram(this.look.program);
    gl.bindFramebuffer(gl.FRAMEBUFFER, target.frame);
    gl.viewport(0, 0, target.width, target.height);
    gl.enable(gl.SCISSOR_TEST);
    gl.scissor(0, row, target.width, rows);
    gl.activeTexture(gl.TEXTURE5);
    gl.bindTexture(gl.TEXTURE_2D, first ? first.texture : null);
    gl.uniform1f(uniforms.u_rough, first ? this.scene.edgeSupersampling : 0);
    gl.uniform3fv(uniforms.u_position, position);
    gl.uniformMatrix3fv(uniforms.u_rotation, false, [...right, ...up, ...back]);
    gl.uniform1f(uniforms.u_near, this.near(position));
    gl.uniform2f(uniforms.u_size, target.width, target.height);
    gl.uniform1f(uniforms.u_focal, Math.min(target.width, target.height) / (2 * look.half));
    gl.uniform1i(uniforms.u_view, VIEWS[view]);
    gl.uniform2fv(uniforms.u_depths, depths);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
    gl.disable(gl.SCISSOR_TEST);
  }

  // The whole picture on the canvas, stretched.
  present(target) {
    const { gl, canvas } = this;
    gl.useProgram(this.stretch.program);
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.activeTexture(gl.TEXTURE5);
    gl.bindTexture(gl.TEXTURE_2D, target.texture);
    gl.uniform1i(this.stretch.uniforms.u_picture, 5);
    gl.uniform2f(this.stretch.uniforms.u_canvas, canvas.width, canvas.height);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  // The picture's bytes, RGBA, row by row from the top.
  read(target) {
    const { gl } = this, stride = 4 * target.width;
    const bytes = new Uint8Array(stride * target.height), flipped = new Uint8Array(bytes.length);
    gl.bindFramebuffer(gl.FRAMEBUFFER, target.frame);
    gl.readPixels(0, 0, target.width, target.height, gl.RGBA, gl.UNSIGNED_BYTE, bytes);
    for (let row = 0; row < target.height; row++) {
      const from = (target.height - 1 - row) * stride;
      flipped.set(bytes.subarray(from, from + stride), row * stride);
    }
    return flipped;
  }

  // Until all that was asked for is drawn: reading waits.
  finish(target) {
    const { gl } = this;
    gl.bindFramebuffer(gl.FRAMEBUFFER, target.frame);
    gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4));
  }

  // Depths along the viewing axis, row by row from the top, in a small picture; Infinity for nothing.
  depths(look, width, height) {
    const target = this.target("distance", width, height);
    this.draw(target, look, "distance");
    const bytes = this.read(target), found = new Float64Array(width * height);
    for (let i = 0; i < found.length; i++) {
      const [high, middle, low, opacity] = bytes.subarray(4 * i, 4 * i + 4);
      const fraction = (high * 65536 + middle * 256 + low) / 16777215;
      found[i] = fraction < 1 && opacity > 127 ? (this.scene.size * fraction) / (1 - fraction) : Infinity;
    }
    return found;
  }
}
