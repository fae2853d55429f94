# METADATA
# title: Teams posts
# description: Posts pass and are recorded.
# schemas:
#   - input: schema.input
package connectors.copilot.teams_post

import rego.v2

import data.connectors.copilot.requests
import data.connectors.copilot.tools

# METADATA
# title: Teams posts
# description: By the tool's name; of a generic tool, by the path that it is told.
# labels:
#   policy: m365-teams-post
#   action: LOG_ONLY
findings contains {
	"action": "LOG_ONLY",
	"policy_id": "m365-teams-post",
	"reason": "the call posts to Teams or changes a chat or channel",
} if {
	_matches
}

_matches if tools.posts

_matches if "post" in requests.kinds
