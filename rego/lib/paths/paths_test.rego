package lib.paths_test

import rego.v2

import data.lib.paths

test_one_path_in_many_spellings if {
	every text in [
		"/me/sendMail", "me/sendMail", "/ME/SENDMAIL/", "/me///sendMail", "/me/%73end%4Dail", "/me/./sendMail",
		"/me/x/../sendMail", "/a/b/../../me/sendMail", "/me/microsoft.graph.sendMail", `\me\sendMail`, " /me/sendMail ",
		"/me/sendMail?x=1#y", "/me/sendMail#y", "/me%2FsendMail", "/me/graph.sendMail()",
	] {
		paths.read(text).segments == ["me", "sendmail"]
	}
}

test_keys_are_segments if {
	paths.read("/users('Bob@x.example')/messages").segments == ["users", "bob@x.example", "messages"]
	paths.read("/users/Bob@x.example/messages").segments == ["users", "bob@x.example", "messages"]
	paths.read("/sites(5)/a+b").segments == ["sites", "5", "a+b"]
}

test_host_and_query_are_told if {
	paths.read("HTTPS://Graph.Microsoft.com:443/v1.0/me?$top=5") == {
		"host": "graph.microsoft.com:443",
		"segments": ["v1.0", "me"],
		"query": "$top=5",
	}
	paths.read("//evil.example/me").host == "evil.example"
	paths.read("/me").host == ""
	paths.read("/").segments == []
	paths.read("https://x.example").segments == []
}

test_what_servers_may_read_differently_is_undefined if {
	every text in [
		"", " ", "/%", "/%4", "/%zz", "/%2573endMail", "../me", "/../me", "/a/../../me", "https://u@x.example/me",
		"ftp://x.example/me", "mailto:x", "file:/x", "/a\u0000b", "/a%00b", "/a\nb", 5, null, ["/me"], {},
	] {
		not paths.read(text)
	}
}

test_segments_can_be_asked_for if {
	paths.under(paths.read("/me/mailFolders/inbox/messageRules/1"), {"messagerules"})
	not paths.under(paths.read("/me"), {"users"})
	paths.last(paths.read("/me/sendMail")) == "sendmail"
	paths.last(paths.read("/")) == ""
	paths.climb("/a/../b/") == "/b/"
}
