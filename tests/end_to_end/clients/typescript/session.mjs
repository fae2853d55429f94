// A session of an SDK's client: package, URL and key in, one line of JSON with what it got out.
const [name, url, key, calls] = process.argv.slice(2);
const first = name === "@modelcontextprotocol/sdk";
const { Client } = await import(first ? `${name}/client/index.js` : name);
const { StreamableHTTPClientTransport } = await import(
  first ? `${name}/client/streamableHttp.js` : name
);

const headers = { Authorization: `Bearer ${key}` };
const transport = new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers } });
const client = new Client(
  { name: "tests", version: "1" },
  { versionNegotiation: { mode: "auto" } },
);

async function told([name, args]) {
  try {
    const result = await client.callTool({ name, arguments: args });
    return { isError: result.isError ?? false };
  } catch (error) {
    return { code: error.code, message: error.message, data: error.data };
  }
}

await client.connect(transport);
const version = client.getNegotiatedProtocolVersion?.() ?? transport.protocolVersion;
const tools = (await client.listTools()).tools.map((tool) => tool.name);
const answers = [];
for (const call of JSON.parse(calls)) answers.push(await told(call));
console.log(JSON.stringify({ version, tools, answers }));
await client.close();
