package pairs_test

import rego.v2

import data.connectors_test.copilot.external_sharing as mails
import data.connectors_test.salesforce.admin_and_code as objects
import data.connectors_test.salesforce.bulk_export as queries
import data.connectors_test.servicenow.calls
import data.connectors_test.servicenow.tables

# Every pair of what the templates' own tests, which a reload waits for, ask one by one.
test_every_mail_outside_in_every_shape_by_every_sender if {
	every name in mails.senders {
		every address in mails.outsiders {
			every arguments in mails.outward(address) {
				mails.denied(name, arguments)
			}
		}
	}
}

test_every_spelling_of_an_object_in_every_key_by_every_tool if {
	every spelling in objects.spellings {
		every key in objects.object_keys {
			every write in objects.written_by {
				objects.denied(write[0], object.union(write[1], {key: spelling}))
			}
		}
	}
}

test_every_bulk_query_by_every_tool if {
	every query in queries.bulk_queries {
		every call in queries.asked(query) {
			queries.denied(call[0], call[1])
		}
	}
}

test_every_table_in_every_key if {
	every table in tables.administrative {
		every key in tables.table_keys {
			calls.finds("sn-admin-script-bulk", "create_record", {key: table})
			calls.finds("sn-admin-script-bulk", "update_record", {"table": "incident", "x": [{key: table}]})
		}
	}
}
