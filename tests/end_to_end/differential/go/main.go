// The fixture server in Go: it answers what its tool ran with.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/http"
	"sync"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

type arguments struct {
	Text    string         `json:"text,omitempty"`
	Count   int64          `json:"count,omitempty"`
	Ratio   float64        `json:"ratio,omitempty"`
	Flag    bool           `json:"flag,omitempty"`
	Tags    []string       `json:"tags,omitempty"`
	Options map[string]any `json:"options,omitempty"`
	Note    *string        `json:"note,omitempty"`
	Any     any            `json:"any,omitempty"`
}

type run struct {
	Tool      string `json:"tool"`
	Arguments any    `json:"arguments"`
}

type recorder struct {
	sync.Mutex
	runs []run
}

func (r *recorder) add(tool string, arguments any) {
	r.Lock()
	defer r.Unlock()
	r.runs = append(r.runs, run{tool, arguments})
}

func (r *recorder) take(answer http.ResponseWriter, _ *http.Request) {
	r.Lock()
	defer r.Unlock()
	if err := json.NewEncoder(answer).Encode(append([]run{}, r.runs...)); err != nil {
		log.Print(err)
	}
	r.runs = nil
}

func main() {
	recorded := &recorder{}
	server := mcp.NewServer(&mcp.Implementation{Name: "differential", Version: "1"}, nil)
	for _, name := range []string{"record", "other"} {
		mcp.AddTool(server, &mcp.Tool{Name: name, Description: "Record what it ran with."},
			func(_ context.Context, _ *mcp.CallToolRequest, in arguments) (*mcp.CallToolResult, any, error) {
				recorded.add(name, in)
				return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "ran"}}}, nil, nil
			})
	}
	handler := mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, nil)
	http.Handle("/mcp", handler)
	http.HandleFunc("/ran", recorded.take)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	log.Fatal(http.Serve(listener, nil))
}
