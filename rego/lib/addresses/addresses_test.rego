package lib.addresses_test

import rego.v2

import data.lib.addresses

own := {"corp.example", "corp.co.uk"}

test_internal_addresses_in_every_form if {
	every text in [
		"bob@corp.example", "BOB@Corp.Example", "Bob Doe <bob@corp.example>", `"Doe, Bob" <bob@corp.example>`,
		"a@corp.example, b@corp.co.uk; <c@corp.example>;", " a@corp.example\r\nb@corp.example ",
		"bob.o'hara+x@corp.example",
	] {
		addresses.inside(text, own)
		addresses.external(text, own) == set()
	}
}

test_everything_else_is_external if {
	every text in [
		"eve@evil.example", "bob@corp.example.evil.example", "bob@evilcorp.example", "bob@eu.corp.example",
		"bob@corp.example-evil.example", "bob@corp.example, eve@evil.example", "a@corp.example;eve@evil.example",
		"bob@corp.example\neve@evil.example", "bob@corp.example <eve@evil.example>", "bob@corp.example <bob@corp.example>",
		"Bob <bob@corp.example> eve@evil.example", "<bob@corp.example><eve@evil.example>", "bob@corp.example eve@evil.example",
		`"a b"@corp.example`, `"eve@evil.example" <bob@corp.example>`, "bob%evil.example@corp.example",
		"evil.example!bob@corp.example", "@evil.example:bob@corp.example", "bob@corp.example(x)", "bob@corp.example.",
		"bob@@corp.example", "bob", "bob@", "@corp.example", ".bob@corp.example", "b..b@corp.example", "bob.@corp.example",
		"bob@cοrp.example", "bob@corp．example", "bоb@corp.example", "bob@xn--crp-bcd.example", "bo\u200bb@corp.example",
		"bob@corp.example\u0000", "mailto:bob@corp.example", "bob@[10.0.0.1]", "bob\uff20corp.example", "bob@\u212aorp.example",
		5, null, true, {"address": "bob@corp.example"}, ["bob@corp.example"],
	] {
		not addresses.inside(text, own)
		count(addresses.external(text, own)) > 0
	}
}

test_a_text_without_an_address_is_not_internal if {
	every text in ["", " ", ",;", "\n"] {
		not addresses.inside(text, own)
		addresses.external(text, own) == set()
	}
}

test_without_domains_every_address_is_external if {
	not addresses.inside("bob@corp.example", set())
	addresses.external("bob@corp.example", set()) == {"bob@corp.example"}
}

test_an_address_too_long_to_be_one_is_external if {
	long := concat("", ["b" | some _ in numbers.range(1, 250)])
	not addresses.domain(sprintf("%s@corp.example", [long]))
	not addresses.domain(5)
}

test_domains_of_one_organisation_are_usable if {
	addresses.usable(["Corp.Example", "corp.co.uk", "contoso.onmicrosoft.com"]) == {
		"corp.example", "corp.co.uk",
		"contoso.onmicrosoft.com",
	}
	addresses.usable([]) == set()
}

test_one_bad_domain_spoils_the_list if {
	every bad in [
		"*", "*.corp.example", "corp", "com", "co.uk", "com.au", "gmail.com", "onmicrosoft.com", "", ".corp.example",
		"corp.example.", "bob@corp.example", "corp example.com", "cοrp.example", "-a.example", 5, null,
	] {
		not addresses.usable(["corp.example", bad])
		not addresses.own(bad)
	}
	not addresses.usable("corp.example")
	not addresses.usable({"a": "corp.example"})
	not addresses.usable(null)
}
