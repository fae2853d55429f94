# METADATA
# title: Words of risk
# description: >-
#   Which words in a tool's definition stand for which risk. Matching is on whole words, so every
#   inflection is listed. Past participles are left out of names, where they are adjectives
#   (list_deleted_records).
package gateway.words

import rego.v2

# METADATA
# title: Documented words in names
# description: The published rules; they count in names and, below, in prose.
documented_in_names := {
	"CRITICAL": {
		"command", "commands", "eval", "evals", "exec", "execs", "execute", "executes", "executing",
		"execution", "executor", "shell", "shells",
	},
	"HIGH": {
		"delete", "deletes", "deleting", "deletion", "drop", "dropping", "drops", "insert",
		"inserting", "insertion", "inserts", "modification", "modify", "modifying", "modifies",
		"removal", "remove", "removes", "removing", "update", "updates", "updating", "write",
		"writes", "writing",
	},
	"LOW": {
		"get", "gets", "list", "lists", "queries", "query", "read", "readonly", "reads", "search",
		"searches",
	},
}

# METADATA
# title: Documented words in prose
# description: >-
#   As in names, but "executes" is how prose says "does" ("Executes a SOQL query"), so there only
#   the phrases below count.
documented_in_prose := {
	"CRITICAL": {"command", "commands", "eval", "exec", "shell", "shells"},
	"HIGH": {
		"delete", "deleted", "deletes", "deleting", "deletion", "drop", "drops", "insert",
		"inserted", "inserts", "modifies", "modify", "remove", "removed", "removes", "removing",
		"update", "updates", "updating", "write", "writes", "writing", "written",
	},
	"LOW": {"get", "gets", "list", "lists", "queries", "query", "read", "reads", "search", "searches"},
}

# METADATA
# title: Phrases
# description: Documented expressions of more than one word, and their inflections, for name and prose.
phrases := {
	"execute arbitrary": "CRITICAL",
	"executes arbitrary": "CRITICAL",
	"executing arbitrary": "CRITICAL",
	"execution of arbitrary": "CRITICAL",
	"run arbitrary": "CRITICAL",
	"runs arbitrary": "CRITICAL",
	"read only": "LOW",
}

# METADATA
# title: Further words in names
# description: >-
#   Our own second list: verbs that the documented one misses, by which mail leaves, rights change,
#   production moves or data is lost.
further_in_names := {
	"CRITICAL": {"interpreter", "sudo", "terminal", "anonymous"},
	"HIGH": {
		"activate", "admin", "administer", "approve", "archive", "assign", "authorize", "ban",
		"broadcast", "bulk", "cancel", "clear", "commit", "create", "deactivate", "delegate",
		"deploy", "destroy", "disable", "dml", "do", "dump", "edit", "enable", "erase",
		"escalate", "export", "forward", "freeze", "grant", "impersonate", "import", "install",
		"invite", "kill", "manage", "merge", "notify", "overwrite", "patch", "pay",
		"permit", "post", "promote", "publish", "purchase", "purge", "push", "put", "refund",
		"reject", "replace", "reply", "reset", "restart", "restful", "restore", "resume", "revoke",
		"rotate", "send", "sends", "set", "share", "shutdown", "suspend", "terminate", "transfer",
		"truncate", "unassign", "unfreeze", "uninstall", "unpublish", "upload", "upsert", "wipe",
		"withdraw",
	},
	"MEDIUM": {
		"accept", "add", "attach", "call", "close", "comment", "copy", "decline", "invoke", "join",
		"leave", "link", "move", "open", "rename", "reorder", "reopen", "resolve", "start", "stop",
		"submit", "unlink",
	},
}

# METADATA
# title: Nouns too
# description: >-
#   Words of the second list that are often nouns. After a documented reading word they are taken
#   as such: get_post, list_commits, get_permission_set, searchMessages.
nouns := {
	"admin", "anonymous", "archive", "bulk", "call", "comment", "commit", "copy", "export",
	"forward", "import", "link", "merge", "order", "patch", "post", "push", "put",
	"reply", "reset", "set", "share", "start", "stop", "terminal", "transfer", "upload",
}

# METADATA
# title: Further words in prose
# description: They count only for a tool whose name says nothing.
further_in_prose := {"HIGH": {
	"approves", "assigns", "create", "creates", "deploy", "deploys", "forwards", "grant", "grants",
	"invite", "invites", "publish", "publishes", "reply", "replies", "send", "sends", "upload",
	"uploads",
}}

# METADATA
# title: Sensitive objects
# description: A word of the second list's MEDIUM level is HIGH when the name also has one of these.
sensitive := {
	"admins", "changeset", "credential", "credentials", "group", "groups", "key", "keys", "label",
	"member", "members", "membership", "org", "owner", "owners", "permission", "permissions",
	"policy", "privilege", "role", "roles", "secret", "secrets", "token", "tokens", "user", "users",
	"workflow", "workflows",
}

# METADATA
# title: Runners
# description: Verbs that, with one of `code` in the same name, mean that code runs.
runners := {"invoke", "run", "runs", "running", "start"}

# METADATA
# title: Code
# description: What runs, for `runners`.
code := {
	"bash", "code", "javascript", "powershell", "process", "program", "python", "script", "scripts",
	"sql",
}

# METADATA
# title: Properties
# description: >-
#   Words in the names of arguments that take something to run. "code" counts only as the whole
#   name: country_code runs nothing.
properties := {
	"CRITICAL": {"cmd", "command", "commands", "shell"},
	"HIGH": {"script", "scripts", "sql"},
}

# METADATA
# title: Whole properties
# description: Names of arguments that count only as a whole.
whole_properties := {"code": "HIGH", "javascript": "HIGH", "python": "HIGH"}
