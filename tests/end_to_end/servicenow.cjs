// Runs the scripts of docs/connectors/servicenow.md with stand-ins for what an instance gives them.
//
//   node servicenow.cjs PAGE, with the URL, the key, the extension and what to do on stdin
//
// Requests are real ones. An instance's are synchronous, which Node has no client for: a process each.
"use strict";
const { spawnSync } = require("node:child_process");
const { readFileSync } = require("node:fs");
const { randomUUID } = require("node:crypto");
const vm = require("node:vm");

const SEND = `
  const { url, method, headers, body } = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
  fetch(url, { method, headers, body, signal: AbortSignal.timeout(120000) }).then(
    async (answer) => console.log(JSON.stringify({ status: answer.status, body: await answer.text() })),
    (fault) => { console.error(fault.cause ? fault.cause.message : fault.message); process.exit(1); });`;

const [include, inTool, inSubflow, rule] = [
  ...readFileSync(process.argv[2], "utf8").matchAll(/```javascript\n([\s\S]*?)```/g),
].map((found) => found[1]);
const told = JSON.parse(readFileSync(0, "utf8"));
const logged = [];

class RESTMessageV2 {
  headers = {};
  setEndpoint(url) { this.url = url; }
  setHttpMethod(method) { this.method = method.toUpperCase(); }
  setRequestHeader(name, value) { this.headers[name] = value; }
  setHttpTimeout(milliseconds) { this.timeout = milliseconds; }
  setRequestBody(body) { this.body = body; }
  execute() {
    if (!(this.timeout > 0)) throw new Error("no time-out was set");
    const sent = spawnSync(process.execPath, ["-e", SEND], { input: JSON.stringify(this), encoding: "utf8" });
    if (sent.status !== 0) throw new Error(sent.stderr);
    const { status, body } = JSON.parse(sent.stdout);
    return { getStatusCode: () => status, getBody: () => body };
  }
}

const properties = {
  "x_policy_gateway.url": told.url,
  "x_policy_gateway.key": told.key,
  "x_policy_gateway.extension": told.extension,
};
const world = vm.createContext({
  sn_ws: { RESTMessageV2 },
  Class: { create: () => function () { this.initialize.apply(this, arguments); } },
  gs: {
    getProperty: (name) => properties[name],
    getUserID: () => "6816f79cc0a8016401c5a33be04be441",
    generateGUID: () => randomUUID().replaceAll("-", ""),
    error: (text) => logged.push(text),
  },
});
vm.runInContext(include, world);

/** A script tool whose work comes after the pre-check: what it returned, and whether it worked. */
function scriptTool(tool, inputs) {
  let worked = false;
  const script = inTool.replace("'update_incident'", JSON.stringify(tool));
  const body = `(function (inputs, work) { ${script}; work(); return { done: true }; })`;
  const returned = vm.runInContext(body, world)(inputs, () => { worked = true; });
  return { returned, worked };
}

function subflow(tool, inputs) {
  const outputs = {};
  const step = { tool, agent: "Incident agent", arguments: JSON.stringify(inputs) };
  Object.assign(world, { inputs: step, outputs });
  vm.runInContext(inSubflow, world);
  return outputs;
}

/** A GlideRecord as far as the business rule reads it: `tool` refers, the rest are cells. */
function businessRule(row, tool) {
  const current = { tool, getValue: (column) => (column in row ? row[column] : null) };
  Object.assign(world, { current, previous: null });
  vm.runInContext(rule, world);
  return true;
}

function report(trace, failed, status) {
  Object.assign(world, { trace, failed, status, id: randomUUID() });
  return vm.runInContext("new PolicyGateway().report(id, trace, failed, status)", world);
}

const known = { scriptTool, subflow, businessRule, report };
const answers = told.calls.map(([name, ...given]) => known[name](...given));
console.log(JSON.stringify({ answers, logged }));
