"""The catalogue of bad input, by number: the tests that prove each, or why it does not touch what there is.

``file::function``, files from the folder of the tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_PAYLOAD = "decode/test_bad_payloads.py::test_it_is_set_aside_with_its_reason_and_its_neighbours_stay"
_LINES = "test_bad_input.py::test_bad_lines_of_a_file"
_DOCUMENTS = "test_bad_input.py::test_bad_documents_in_a_folder"
_MESSAGES = "test_bad_input.py::test_bad_messages_of_a_broker"
_CLOCKS = "test_bad_input.py::test_wrong_clocks_move_nothing"
_KEYS = "test_bad_input.py::test_keys_that_are_none"
_FOLDERS = "test_bad_input.py::test_keys_that_would_leave_their_folder"
_TWICE = "test_bad_input.py::test_what_is_sent_twice_counts_once"
_REFUSED = "test_bad_input.py::test_names_and_expressions_that_are_refused_before_data_flows"
_TEXTS = "test_bad_input.py::test_texts_stay_texts"

PROVEN: Mapping[int, Sequence[str]] = {
    1: (_PAYLOAD, _LINES, _DOCUMENTS, _MESSAGES),
    2: ("decode/test_bad_payloads.py::test_all_of_a_kind_in_one_batch_keep_all_good_rows", _LINES, _MESSAGES),
    3: (_PAYLOAD, _LINES, _MESSAGES),
    4: (_PAYLOAD, _LINES, _MESSAGES),
    5: ("test_bad_input.py::test_numbers_that_are_none_poison_nothing",),
    6: (_PAYLOAD, _LINES, _MESSAGES),
    7: (_PAYLOAD, _LINES, _MESSAGES),
    8: (_PAYLOAD, _LINES, _MESSAGES),
    9: (_PAYLOAD, _LINES, _MESSAGES),
    10: (_PAYLOAD, _LINES, "acquire/test_mqtt.py::test_an_oversized_message_stops_nothing"),
    11: (_PAYLOAD, _MESSAGES, "test_bad_input.py::test_retained_messages_and_clears_are_no_data"),
    12: (_PAYLOAD, _LINES, "decode/test_json.py::test_rows_in_an_array"),
    13: (_PAYLOAD, _LINES, _MESSAGES),
    14: (_PAYLOAD, _LINES, _MESSAGES),
    15: (_PAYLOAD, _LINES, _MESSAGES),
    16: (_PAYLOAD, _LINES, _DOCUMENTS),
    17: (_PAYLOAD, _LINES, _MESSAGES),
    18: (_PAYLOAD, _LINES, _KEYS),
    19: (_PAYLOAD, _TEXTS, "output/test_notify.py::test_a_device_cannot_forge_a_line_or_move_the_cursor"),
    20: (_PAYLOAD, _LINES, _MESSAGES),
    21: (_PAYLOAD, _LINES, _DOCUMENTS),
    22: (_PAYLOAD, _LINES, _MESSAGES),
    23: (_PAYLOAD, "test_bad_input.py::test_unknown_fields_and_types_that_change"),
    24: (
        _PAYLOAD,
        "test_bad_input.py::test_unknown_fields_and_types_that_change",
        "output/test_delta.py::test_new_columns_are_added_and_changed_types_refused",
    ),
    25: (_PAYLOAD, _KEYS),
    26: (_REFUSED, "decode/test_json.py::test_columns_of_odd_names_are_named_and_clashes_refused"),
    27: (
        "decode/test_json.py::test_columns_of_odd_names_are_named_and_clashes_refused",
        "output/test_delta.py::test_names_that_delta_cannot_hold_are_slugged_for_good",
    ),
    29: (_CLOCKS,),
    30: (_PAYLOAD, _CLOCKS, "decode/test_json.py::test_epoch_numbers"),
    31: (_PAYLOAD, _CLOCKS),
    32: (_CLOCKS, "condition/test_event_time.py::test_wrong_clocks_are_set_aside_and_do_not_move_the_watermark"),
    33: (_PAYLOAD, _CLOCKS),
    34: (_CLOCKS, "condition/test_event_time.py::test_by_arrival_nothing_is_late_even_if_the_clock_is_set_back"),
    35: (
        _PAYLOAD,
        "test_bad_input.py::test_a_leap_second_and_an_hour_that_happens_twice_have_a_time",
        "decode/test_json.py::test_local_times_in_their_zone",
    ),
    36: (_PAYLOAD, "test_bad_input.py::test_a_leap_second_and_an_hour_that_happens_twice_have_a_time"),
    38: (_CLOCKS,),
    39: (_CLOCKS, "condition/test_event_time.py::test_late_is_measured_row_by_row_against_the_newest_before"),
    40: (_CLOCKS,),
    41: (_TWICE, "condition/test_dedupe.py::test_against_a_set"),
    42: (_TWICE,),
    45: (
        "detect/test_stuck.py::test_after_a_fixed_time_and_no_longer_once_it_changes",
        "detect/test_stuck.py::test_by_what_is_usual",
    ),
    47: (
        "notify/test_alarm.py::test_count_of_the_last_or_within_a_time",
        "notify/test_alarm.py::test_delays_elapse_in_event_time",
    ),
    53: (_KEYS, "condition/test_rekey.py::test_further_machines_are_set_aside_but_known_ones_pass"),
    55: (
        "detect/test_deadman.py::test_the_watermark_tells_it_and_a_reading_ends_it",
        "engine/test_graph.py::test_least_of_the_partitions_and_idle_ones_do_not_count",
    ),
    56: (_PAYLOAD, _LINES),
    57: (_TEXTS, "output/test_files_sink.py::test_every_kind_of_cell"),
    58: (_PAYLOAD, _DOCUMENTS),
    59: (_PAYLOAD, _DOCUMENTS),
    60: (_PAYLOAD, _DOCUMENTS),
    61: (_PAYLOAD, _DOCUMENTS),
    62: (_PAYLOAD, _DOCUMENTS, "decode/test_xml.py::test_attributes_nesting_namespaces_and_other_encodings"),
    63: (_PAYLOAD, _MESSAGES, "acquire/test_damaged_files.py::test_what_is_no_gzip_file_and_what_swells_is_told"),
    69: (
        _REFUSED,
        _FOLDERS,
        "test_bad_input.py::test_a_table_cannot_lie_outside_of_the_lake",
        "lake/test_log.py::test_a_log_cannot_name_files_outside_of_the_table",
        "serve/test_access.py::test_only_the_listed_files_are_served",
    ),
    70: (_KEYS,),
    71: ("lake/test_read.py::test_sql_sees_nothing_else", "lake/test_read.py::test_a_query_has_a_time_and_a_memory"),
    72: (_REFUSED, "values/test_expressions.py::test_what_does_not_fit_is_said_before_data_flows"),
    73: (_TEXTS, "serve/test_page.py::test_texts_from_devices_stay_texts"),
    74: (
        "output/test_notify.py::test_private_addresses_are_refused",
        "output/test_notify.py::test_a_name_is_judged_by_what_it_resolves_to_and_then_kept",
    ),
    75: (
        _FOLDERS,
        "output/test_mqtt_channel.py::test_an_id_that_would_leave_its_topic_is_not_sent",
        "mqtt/test_broker.py::test_ids_with_wildcards_match_no_pattern",
    ),
    76: (
        "mqtt/test_client.py::test_a_certificate_is_the_name_and_the_acl_keeps_to_it",
        "test_systems.py::test_humidity",
    ),
    77: (
        "test_bad_input.py::test_retained_messages_and_clears_are_no_data",
        "acquire/test_mqtt.py::test_retained_messages_are_old_and_clears_are_no_data",
    ),
    78: (
        "test_bad_input.py::test_retained_messages_and_clears_are_no_data",
        "mqtt/test_broker.py::test_a_will_goes_out_when_a_client_vanishes_and_only_then",
    ),
    79: (
        "test_bad_input.py::test_a_broker_that_forgot_our_session_is_told",
        "acquire/test_mqtt.py::test_a_lost_session_is_counted_and_old_ids_are_not_acknowledged",
        "acquire/test_mqtt.py::test_a_restart_of_the_broker",
    ),
    80: ("mqtt/test_broker.py::test_queues_are_bounded_and_say_so",),
    83: (
        "mqtt/test_client.py::test_who_is_not_known_is_refused",
        "mqtt/test_client.py::test_tls_below_1_2_is_not_spoken",
    ),
    84: (
        "serve/test_feed.py::test_a_page_that_does_not_read_never_holds_the_engine_up",
        "serve/test_hub.py::test_a_slow_viewer_loses_the_oldest_and_sees_that_it_did",
        "mqtt/test_broker.py::test_a_client_that_does_not_read_stops_nobody",
        "output/test_notify.py::test_what_is_refused_for_good_does_not_hold_up_the_rest",
    ),
    85: (
        "serve/test_deadline.py::test_who_never_finishes_is_hung_up_on",
        "serve/test_deadline.py::test_headers_without_end_are_refused",
        "serve/test_access.py::test_there_is_an_end_to_viewers",
        "mqtt/test_broker.py::test_connections_are_bounded",
        "mqtt/test_broker.py::test_who_does_not_connect_properly_is_thrown_out",
    ),
    86: (
        "engine/test_trouble.py::test_a_full_disk_is_waited_out_however_long_it_takes",
        "simulation/test_simulation.py::test_seeds",
    ),
    87: (
        "test_bad_input.py::test_a_flipped_bit_of_the_state_is_named",
        "engine/test_ingest_log.py::test_damage_to_what_was_synced_is_refused",
        "engine/test_checkpoint.py::test_a_changed_checkpoint_is_refused",
    ),
    88: ("lake/test_read.py::test_a_flipped_bit_is_found_and_not_believed",),
    89: ("condition/test_event_time.py::test_by_arrival_nothing_is_late_even_if_the_clock_is_set_back",),
    90: (
        "test_bad_input.py::test_a_second_engine_and_another_pipeline_are_refused",
        "engine/test_checkpoint.py::test_another_process_is_refused_until_the_first_is_dead",
    ),
    91: ("test_bad_input.py::test_a_second_engine_and_another_pipeline_are_refused",),
    92: (
        "acquire/test_files.py::test_a_half_written_line_waits_until_it_is_complete",
        "acquire/test_files.py::test_a_rotated_file_loses_and_doubles_nothing",
        "acquire/test_files.py::test_a_truncated_or_replaced_file_is_read_from_its_start",
        "acquire/test_files.py::test_links_pipes_and_folders_are_passed_over",
        "acquire/test_files.py::test_files_in_natural_order_blank_lines_and_a_last_line_without_end",
    ),
    93: ("test_bad_input.py::test_a_column_of_nulls_and_files_of_nothing",),
    94: (
        _PAYLOAD,
        "test_bad_input.py::test_numbers_that_are_none_poison_nothing",
        "decode/test_json.py::test_minus_zero_is_zero",
        "condition/test_dedupe.py::test_minus_zero_is_zero_and_null_is_null",
    ),
    95: (_KEYS, "condition/test_rekey.py::test_names_are_composed_and_what_is_no_name_is_set_aside"),
}

ELSEWHERE: Mapping[int, str] = {
    28: "there is no 32-bit float: columns are 64-bit, and numbers beyond that are number 4",
    37: "estimating the skew of each device needs a register of devices, which there is not yet",
    43: "events of gaps in sequence numbers need a register of devices; a gap is visible in the table",
    44: "as 43",
    46: "sentinels are a matter of a sensor's type: derive and keep can name them, no list is built in",
    48: "units are not part of a column yet",
    49: "there is no Modbus source yet; keep can name the range that is plausible",
    50: "needs a register of devices and their machines",
    51: "needs a register of devices; until then keys_max bounds how many there may be (53)",
    52: "needs a register of devices; a broker lets the second session of a name take over",
    54: "the broker and the bounded window of the source throttle all devices alike, not one by one",
    64: "no archives are unpacked; gz holds one file",
    65: "decoders of their own: see test_protobuf, test_avro and test_sparkplug",
    66: "no model files are loaded",
    67: "no ONNX models are loaded",
    68: "no learnt models are run",
    81: "there is no Kafka source yet",
    82: "there is no Kafka source yet",
}
