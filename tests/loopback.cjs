// node --require loopback.cjs server.js: every socket that listens does so on 127.0.0.1, whatever the server says.
const net = require("net");
const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (first, ...rest) {
  if (first !== null && typeof first === "object") return listen.call(this, { ...first, host: "127.0.0.1" }, ...rest);
  return listen.call(this, first, "127.0.0.1", ...(typeof rest[0] === "string" ? rest.slice(1) : rest));
};
