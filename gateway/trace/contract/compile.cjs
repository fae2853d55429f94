// Writes the contract's artifact to standard output: node compile.cjs > AuditAnchor.json
// Needs npm's solc 0.8.37 (tests/node); nothing else is read, and the output is always the same.
const { createHash } = require("node:crypto");
const { readFileSync } = require("node:fs");
const { join } = require("node:path");
const solc = require(require.resolve("solc", { paths: [process.cwd()] }));

const name = "AuditAnchor.sol";
const source = readFileSync(join(__dirname, name), "utf8");
const settings = {
  evmVersion: "cancun",
  optimizer: { enabled: true, runs: 10000 },
  metadata: { bytecodeHash: "none", appendCBOR: false },
  outputSelection: { "*": { "*": ["abi", "evm.bytecode.object", "evm.deployedBytecode"] } },
};
const input = { language: "Solidity", sources: { [name]: { content: source } }, settings };
const output = JSON.parse(solc.compile(JSON.stringify(input)));
if (output.errors) {
  process.stderr.write(output.errors.map((error) => error.formattedMessage).join("\n"));
  process.exit(1);
}
const contract = output.contracts[name].AuditAnchor;
const { deployedBytecode } = contract.evm;
// With an immutable, what lies on chain would differ from what is compared with it.
if (Object.keys(deployedBytecode.immutableReferences).length) process.exit(2);
const artifact = {
  contract: "AuditAnchor",
  source_sha256: createHash("sha256").update(source).digest("hex"),
  solc: solc.version().replace(/\.Emscripten.*/, ""),
  settings: { evmVersion: settings.evmVersion, optimizer: settings.optimizer, metadata: settings.metadata },
  abi: contract.abi,
  bytecode: "0x" + contract.evm.bytecode.object,
  deployed: "0x" + deployedBytecode.object,
};
process.stdout.write(JSON.stringify(artifact, null, 2) + "\n");
