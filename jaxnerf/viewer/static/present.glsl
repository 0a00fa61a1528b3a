// The picture, stretched over the canvas.

uniform sampler2D u_picture;
uniform vec2 u_canvas;

out vec4 result;

void main() {
  result = vec4(texture(u_picture, gl_FragCoord.xy / u_canvas).rgb, 1.0);
}
