package connectors_test.salesforce.crm_read

import rego.v2

import data.connectors.salesforce.crm_read
import data.connectors_test.salesforce.calls

test_reading_tools_pass if {
	every name in ["soqlQuery", "SOQLQUERY", "sales__find", "salesforce_query_records", "query_records", "my-org_crm_queryRecords", "run-soql-query"] {
		some found in crm_read.findings with input as calls.call(name, {})
		found.action == "ALLOW"
	}
}

test_no_other_tool_does if {
	every name in ["createSobjectRecord", "findAndDelete", "soqlQueryDelete", "send_query_records", "update_and_query_records", "crm_drop_query-records", "unheard_of", ""] {
		crm_read.findings == set() with input as calls.call(name, {})
	}
}
