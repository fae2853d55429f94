// The fixture server on the TypeScript SDK: it answers what its tool ran with.
import { randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { McpServer } from "@modelcontextprotocol/sdk/server/mcp.js";
import { StreamableHTTPServerTransport } from "@modelcontextprotocol/sdk/server/streamableHttp.js";
import { z } from "zod";

let runs = [];
const server = new McpServer({ name: "differential", version: "1" });
const inputSchema = {
  text: z.string().optional(),
  count: z.number().int().optional(),
  ratio: z.number().optional(),
  flag: z.boolean().optional(),
  tags: z.array(z.string()).optional(),
  options: z.record(z.string(), z.any()).optional(),
  note: z.string().nullable().optional(),
  any: z.any().optional(),
};
for (const tool of ["record", "other"]) {
  server.registerTool(tool, { description: "Record what it ran with.", inputSchema }, (args) => {
    runs.push({ tool, arguments: args });
    return { content: [{ type: "text", text: "ran" }] };
  });
}

const transport = new StreamableHTTPServerTransport({ sessionIdGenerator: randomUUID });
await server.connect(transport);
const http = createServer((request, response) => {
  if (request.url === "/ran") {
    response.end(JSON.stringify(runs));
    runs = [];
  } else {
    void transport.handleRequest(request, response);
  }
});
http.listen(0, "127.0.0.1", () => console.log(http.address().port));
