package lib.tool_names_test

import rego.v2

import data.lib.tool_names

test_a_name_has_the_forms_without_its_prefix_and_suffix if {
	tool_names.forms("workiq-mail___mcp_MailTools_graph_mail_sendMail") == {
		"workiq-mail___mcp_mailtools_graph_mail_sendmail",
		"mcp_mailtools_graph_mail_sendmail",
	}
	tool_names.forms("crm__delete_record") == {"crm__delete_record", "delete_record"}
	tool_names.forms("a__b__c.Send-an-email") == {"a__b__c.send-an-email", "send-an-email"}
	tool_names.forms("x.do_action_work_iq") == {"x.do_action_work_iq", "x.do_action", "do_action_work_iq", "do_action"}
	tool_names.forms("server/tool:run") == {"server/tool:run", "run"}
	tool_names.forms(" CMDB \n Search ") == {"cmdb search"}
	tool_names.forms("ends__") == {"ends__"}
}

test_what_is_no_string_has_no_form_and_matches_nothing if {
	every name in [5, null, {}, ["a"], ""] {
		tool_names.forms(name) == set()
		not tool_names.matches(name, ["*"])
	}
}

test_globs_match_a_form_whatever_the_case if {
	tool_names.matches("CRM__Delete_Record", ["get_*", "delete_*"])
	tool_names.matches("do_action_work_iq", ["DO_ACTION"])
	tool_names.matches("a.b.c", ["a.*"])
	tool_names.matches("mcp_x_sendMail", ["*_send{Mail,Draft}"])
	tool_names.matches("ab", ["a?"])
	not tool_names.matches("undelete_record", ["delete_*"])
	not tool_names.matches("delete_record", [])
}

test_the_called_tool_s_forms_are_lines if {
	tool_names.lines == "a__send-mail\nsend-mail" with input.tool.name as "A__Send-Mail"
	tool_names.plain == {"asendmail", "sendmail"} with input.tool.name as "A__Send-Mail"
	tool_names.squeezed == "asendmail\nsendmail" with input.tool.name as "A__Send-Mail"
	tool_names.lines == "" with input.tool.name as 5
}
