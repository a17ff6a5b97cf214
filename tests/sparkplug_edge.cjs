// NODE_PATH=... node sparkplug_edge.cjs URL GROUP NODE BIRTHS: an edge node of Eclipse Tahu's own client. BIRTHS is
// {"node": [metric ...], "devices": {NAME: [metric ...]}, "deaf": whether it answers no rebirth}; what it is to do
// comes as lines of JSON, and it says what has happened to it, a word a line.
const readline = require("readline");
const { newClient } = require("sparkplug-client");

const [url, group, node, given] = process.argv.slice(2);
const births = JSON.parse(given);
const edge = newClient({
  serverUrl: url, username: "", password: "", groupId: group, edgeNode: node, clientId: `edge-${group}-${node}`,
  keepalive: 5, publishDeath: true, mqttOptions: { reconnectPeriod: 200 },
});

const binary = new Set(["Bytes", "File"]);
const metrics = (some) => some.map((one) => (
  binary.has(one.type) && one.value !== null ? { ...one, value: Buffer.from(one.value, "base64") } : { ...one }
));

function birth() {
  edge.publishNodeBirth({ timestamp: Date.now(), metrics: metrics(births.node || []) });
  for (const [device, some] of Object.entries(births.devices || {})) {
    edge.publishDeviceBirth(device, { timestamp: Date.now(), metrics: metrics(some) });
  }
  // Births are sent without an answer of the broker: what is answered behind them says that it has them.
  edge.client.publish("edge/born", "", { qos: 1 }, (error) => console.log(error ? `error ${error}` : "born"));
}

edge.on("birth", birth);
edge.on("ncmd", (command) => {
  if (!command.metrics.some((one) => one.name === "Node Control/Rebirth" && one.value === true)) return;
  console.log("asked");
  if (!births.deaf) birth();
});
edge.on("error", (error) => console.log("error", String(error)));

const actions = {
  data: (said) => edge.publishDeviceData(said.device, { timestamp: Date.now(), metrics: metrics(said.metrics) }, said.options),
  node: (said) => edge.publishNodeData({ timestamp: Date.now(), metrics: metrics(said.metrics) }, said.options),
  skip: () => edge.incrementSeqNum(),
  born: (said) => edge.publishDeviceBirth(said.device, { timestamp: Date.now(), metrics: metrics(said.metrics) }),
  died: (said) => edge.publishDeviceDeath(said.device, { timestamp: Date.now() }),
  stop: () => edge.stop(),
};
readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const said = JSON.parse(line);
  actions[said.do](said);
  console.log("done");
});
