# METADATA
# title: Which objects a call names
# description: >-
#   The sObjects that a writing call names in its arguments, however it spells them, and which of
#   them hold users, rights or code. What cannot be read is told apart: nobody knows what it writes.
# schemas:
#   - input: schema.input
package connectors.salesforce.objects

import rego.v2

import data.lib.paths
import data.lib.values

# METADATA
# title: Protected
# description: Objects that hold users, rights, credentials, settings or code, folded to lower-case letters.
protected := {
	"apexclass", "apexcomponent", "apexexecuteoverlayaction", "apexpage", "apextestqueueitem",
	"apextrigger", "asyncapexjob", "auradefinition", "auradefinitionbundle", "authconfig",
	"authprovider", "certificate", "connectedapp", "connectedapplication", "containerasyncrequest",
	"corswhitelistentry", "crontrigger", "csptrustedsite", "customfield", "customobject",
	"custompermission", "deployrequest", "externalclientapplication", "externalcredential",
	"externaldatasource", "externalserviceregistration", "fieldpermissions", "flow", "flowdefinition",
	"group", "groupmember", "lightningcomponentbundle", "metadatacontainer", "metadatapackage",
	"mutingpermissionset", "namedcredential", "oauthtoken", "objectpermissions", "organization",
	"permissionset", "permissionsetassignment", "permissionsetgroup", "permissionsetgroupcomponent",
	"permissionsetlicenseassign", "permissionsettabsetting", "profile", "queuesobject", "remoteproxy",
	"remotesitesetting", "samlssoconfig", "sessionpermsetactivation", "setupentityaccess", "sharingrules",
	"staticresource", "twofactorinfo", "user", "userlogin", "userpackagelicense", "userrole",
	"validationrule", "workflowrule",
}

# METADATA
# title: Relationships to users
# description: Relationships that lead from any record to a user or to a user's rights.
to_users := {
	"assignee", "createdby", "delegatedapprover", "lastmodifiedby", "manager", "members", "owner",
	"permissionsetassignments", "permissionsets", "profile", "users",
}

# METADATA
# title: Names
# description: What the call gives as names of objects, of any type; empty when it gives none.
names := values.named(input.arguments, {
	"entity", "entityapiname", "entityname", "entitytype", "object", "objectapiname", "objectname",
	"objecttype", "sobject", "sobjectapiname", "sobjectname", "sobjecttype", "table", "tablename",
})

# METADATA
# title: Unreadable
# description: >-
#   The call names no object, or gives as a name what is none: Salesforce's names are ASCII
#   letters, digits and underscores.
unreadable if names == set()

unreadable if {
	some name in names
	not _is_name(name)
}

unreadable if {
	some text in _addressed
	not paths.read(text)
}

_is_name(name) if {
	is_string(name)
	regex.match(`^[ \t]*[A-Za-z][A-Za-z0-9_]*[ \t]*$`, name)
}

# METADATA
# title: Protected ones
# description: The protected objects that the call names, anywhere in its arguments.
touched contains name if {
	some name in (names | values.named(input.arguments, {"type", "attributestype"}))
	_is_protected(name)
}

# A body may be keyed by objects: {"PermissionSetAssignment": [{…}]}.
touched contains name if {
	some [path, value] in values.opened(input.arguments)
	type_name(value) in {"array", "object"}
	name := path[count(path) - 1]
	_is_protected(name)
}

touched contains segment if {
	some text in _addressed
	some segment in paths.read(text).segments
	_is_protected(segment)
}

touched contains step if {
	some path in relationships
	some step in split(path, "/")
	values.fold(step) in (to_users | protected)
}

_addressed := {text |
	some text in values.named(input.arguments, {"endpoint", "href", "resource", "uri", "url"})
}

# METADATA
# title: Relationships
# description: The relationship paths that the call follows, with "/" between their steps.
relationships := {replace(path, ".", "/") |
	some path in values.named(input.arguments, {"relationship", "relationshipname", "relationshippath"})
	is_string(path)
}

# Standard objects are in no namespace, so acme__User is taken for User; acme__User__c is custom.
_is_protected(name) if {
	is_string(name)
	parts := split(lower(trim_space(name)), "__")
	not _custom(parts)
	folded := values.fold(parts[count(parts) - 1])
	some known in {folded, trim_suffix(folded, "s")}
	known in _all
}

_custom(parts) if {
	count(parts) > 1
	parts[count(parts) - 1] in {"b", "c", "changeevent", "e", "feed", "history", "kav", "mdt", "share", "tag", "x", "xo"}
}

_is_protected(name) if values.fold(name) in _further

_all := protected | _further

_further := {values.fold(name) | some name in values.strings(input.server.params, ["protected_objects"], [])}
