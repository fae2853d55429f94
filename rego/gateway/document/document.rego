# METADATA
# title: The input document
# description: >-
#   Whether the input is whole and of the right types. A policy that reads a missing field is
#   silent, so nothing may be decided about an input that lacks one.
# schemas:
#   - input: schema.input
package gateway.document

import rego.v2

# METADATA
# title: Whole
# description: >-
#   Every field of the schema is there, none besides, and each has its type: what the project's
#   default needs. One unification stands for a test of each field.
whole if {
	{
		"version": 1,
		"project": {"id": project_id, "slug": project_slug, "default_action": default_action},
		"agent": _,
		"server": {
			"id": server_id,
			"slug": server_slug,
			"origin": origin,
			"template": template,
			"params": params,
			"overrides": overrides,
		},
		"tool": {
			"name": tool_name,
			"risk": risk,
			"risk_computed": computed,
			"pin": pin,
			"annotations": annotations,
			"definition_sha256": sha256,
		},
		"rules": rules,
		"arguments": arguments,
		"call": {
			"source": source,
			"method": method,
			"phase": phase,
			"era": era,
			"session": session,
			"task": _,
			"meta": meta,
			"input_responses": _,
			"is_retry": is_retry,
		},
		"context": {"time": time, "client_ip": client_ip},
	} = input

	# Rego orders values by type first: if the least and the greatest are strings, all are.
	strings := [
		project_id, project_slug, server_id, server_slug, origin, tool_name, pin,
		source, method, phase, era, time, client_ip,
	]
	is_string(min(strings))
	is_string(max(strings))
	default_action in {"ALLOW", "LOG_ONLY", "REQUIRE_APPROVAL", "DENY"}
	risk in {"LOW", "MEDIUM", "HIGH", "CRITICAL"}
	computed in {"LOW", "MEDIUM", "HIGH", "CRITICAL"}
	is_object(arguments)
	is_object(params)
	is_object(annotations)
	is_object(meta)
	is_array(overrides)
	is_array(rules)
	is_boolean(is_retry)
	type_name(template) in {"string", "null"}
	type_name(sha256) in {"string", "null"}
	type_name(session) in {"string", "null"}
	_agent
	rules_readable
}

_agent if input.agent == null

_agent if {
	is_boolean(input.agent.asserted)
	is_string(input.agent.id)
	is_string(input.agent.name)
}

# METADATA
# title: Routable
# description: >-
#   What decides which policies are asked is there and has its type. Cheap, because it is asked of
#   every call; `whole` is asked only where nothing else speaks for one.
routable if {
	strings := [
		input.project.slug, input.server.slug, input.tool.name,
		input.call.method, input.context.time,
	]
	is_string(min(strings))
	is_string(max(strings))
	is_array(input.server.overrides)
	is_object(input.arguments)
	type_name(input.server.template) in {"string", "null"}
	_agent
}

# METADATA
# title: Readable rules
# description: Every database rule is one.
rules_readable if input.rules == []

rules_readable if {
	is_array(input.rules)
	count(input.rules) == count([rule | some rule in input.rules; readable(rule)])
}

# METADATA
# title: Readable rule
# description: A row with an action, an id, a reason, and what it is bound to, maybe null.
readable(rule) if {
	rule.action in {"ALLOW", "LOG_ONLY", "REQUIRE_APPROVAL", "DENY"}
	is_string(rule.id)
	is_string(rule.reason)
	_ = [rule.agent_id, rule.server_id, rule.tool_id, rule.tool_pattern]
}
