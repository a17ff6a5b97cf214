"""Each thing that a message advises is followed by a test, or stands in a list with the reason why it cannot be."""

# ruff: noqa: E501 (what stands in a pipeline file, and what a message says, stays in one line)

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import test_command_remedies
import test_end_remedies
import test_file_remedies
import test_http_remedies
import test_model_remedies
import test_pipeline_remedies
import test_service_remedies
import test_step_remedies
import test_value_remedies
import test_watching_remedies
from advice import Advice, Remedy, advices

TESTS = Path(__file__).parent.parent
FAMILIES = (
    test_command_remedies,
    test_end_remedies,
    test_file_remedies,
    test_http_remedies,
    test_model_remedies,
    test_pipeline_remedies,
    test_service_remedies,
    test_step_remedies,
    test_value_remedies,
    test_watching_remedies,
)
CASES = [
    case
    for family in FAMILIES
    for cases in vars(family).values()
    if isinstance(cases, list)
    for case in cases
    if isinstance(case, Remedy)
]
WRITTEN_SO = "test_advice_in_messages.py::test_what_is_advised_is_taken"
ELSEWHERE = {
    ("acquire/_lines", "let who runs this read it"): "cli/test_expected_trouble.py::test_a_file_that_may_not_be_read",
    ("acquire/files/_reader", "correct path:"): "cli/test_remedies.py::test_a_source_file_that_is_not_there_is_said_at_once",
    ("acquire/files/_remote", "read them as a source of their own"): "acquire/test_remote_objects.py::test_parquet_is_read_as_a_source_of_its_own",
    ("acquire/http/_app", "read the tables with"): "remedies/test_http_remedies.py::test_tables_are_asked_elsewhere",
    ("acquire/http/_app", "set a token"): "remedies/test_http_remedies.py::test_a_page_in_a_browser_may_post_with_a_token",
    ("acquire/http/_app", "the source is being closed"): "remedies/test_http_remedies.py::test_what_is_sent_again_to_a_source_that_was_closed_is_kept_once",
    ("acquire/http/_consumers", "read it with format binary"): "acquire/test_http_consumers.py::test_binary_gives_any_bytes_and_json_names_what_is_none",
    ("acquire/http/_consumers", "topics are subscribed to by name"): "acquire/test_http_consumers.py::test_topics_are_subscribed_to_by_name_as_the_answer_says",
    ("acquire/http/_groups", "delete those that are done"): "acquire/test_http_consumers.py::test_consumers_that_are_done_make_room_for_others",
    ("acquire/http/_metrics", "send less at once"): "remedies/test_http_remedies.py::test_metrics_that_are_too_many_are_sent_in_less",
    ("acquire/http/_reader", "end what holds the port"): "remedies/test_http_remedies.py::test_a_port_that_is_taken",
    ("acquire/http/_records", "delete it"): "acquire/test_http_consumers.py::test_a_damaged_file_is_named",
    ("acquire/postgres", "write schema.table"): WRITTEN_SO,
    ("cli/access", "send it as"): "remedies/test_watching_remedies.py::test_a_token_is_sent_as_it_is_told",
    ("cli/alarms", "write it as 2026-01-31T18:00"): WRITTEN_SO,
    ("cli/backtest", "judge it by those"): "cli/test_backtest.py::test_a_model_is_judged_by_rows_from_when_it_says",
    ("cli/backtest_alarms", "tocsin alarms label true ID"): "cli/test_backtest_alarms.py::test_labels_of_earlier_occurrences_are_kept_and_change_no_state",
    ("cli/backtest_alarms", "try a later --since"): "cli/test_backtest_alarms.py::test_a_time_before_which_something_was_labelled_proposes_a_limit",
    ("cli/backtest_alarms", "write it into the file"): "cli/test_backtest_alarms.py::test_alarms_are_judged_and_a_limit_is_proposed_in_words",
    ("cli/backtest_failure", "give later rows"): "cli/test_backtest_failure.py::test_later_rows_judge_where_nothing_is_known_of_the_last_ones",
    ("cli/backtest_failure", "judge it by those"): "cli/test_backtest_failure.py::test_rows_that_taught_do_not_judge",
    ("cli/doctor", "chmod 600"): "cli/test_doctor.py::test_days_left_of_a_certificate",
    ("cli/doctor", "correct it in the file"): "remedies/test_watching_remedies.py::test_doctor_is_content_with_what_is_corrected",
    ("cli/doctor", "correct user"): "remedies/test_watching_remedies.py::test_doctor_is_content_with_what_is_corrected",
    ("cli/doctor", "make a new one"): "cli/test_doctor.py::test_days_left_of_a_certificate",
    ("cli/doctor", "name a folder"): "remedies/test_watching_remedies.py::test_doctor_is_content_with_another_folder",
    ("cli/doctor", "put the folder on a disk"): "remedies/test_watching_remedies.py::test_doctor_is_content_with_another_folder",
    ("cli/doctor", "put the folder on a local disk"): "remedies/test_watching_remedies.py::test_doctor_is_content_with_another_folder",
    ("cli/doctor", "start it, or correct"): "remedies/test_watching_remedies.py::test_doctor_is_content_with_what_is_corrected",
    ("cli/edge", "say the topic"): "remedies/test_watching_remedies.py::test_what_is_deployed_needs_a_topic",
    ("cli/flink", "write the address"): "flink/test_flink_commands.py::test_a_page_and_an_address_without_a_port_are_refused",
    ("cli/models", "follow it"): "models/test_training_kinds.py::test_texts_by_the_page_the_last_ones_judge",
    ("cli/models", "make one: tocsin train FILE"): "models/test_training_kinds.py::test_texts_by_the_page_the_last_ones_judge",
    ("cli/models", "write it as place=value"): "models/test_training_kinds.py::test_texts_by_the_page_the_last_ones_judge",
    ("cli/reload", "stop this one"): "remedies/test_watching_remedies.py::test_a_folder_that_is_changed_is_begun_there",
    ("cli/replay", "such as --set folder"): "cli/test_replay.py::test_a_setting_is_written_as_the_message_says",
    ("cli/set_aside", "tocsin query"): "remedies/test_watching_remedies.py::test_rows_that_are_set_aside_are_looked_at_by_the_command_that_is_told",
    ("cli/sources", "write a file and a table of it"): "remedies/test_watching_remedies.py::test_a_database_is_watched_by_its_table",
    ("cli/sources", "name a table in it"): "remedies/test_watching_remedies.py::test_a_database_is_watched_by_its_table",
    ("cli/watch", "before you run it"): "remedies/test_watching_remedies.py::test_a_password_is_set_before_the_saved_file_is_run",
    ("cli/watching", "tocsin serve"): "cli/test_watch.py::test_a_file_is_watched_to_its_end_and_what_was_seen_is_said",
    ("cli/watch", "write it as Europe/Berlin"): "cli/test_watch.py::test_a_zone_and_a_folder_that_are_none_are_told",
    ("cli/watch", "choose another folder"): "remedies/test_watching_remedies.py::test_a_folder_of_another_source_is_left_for_another",
    ("decode/_registry", "check the url"): "remedies/test_value_remedies.py::test_a_registry_that_refuses_is_mended_as_it_says",
    ("decode/_registry", "check user and password"): "remedies/test_value_remedies.py::test_a_registry_that_refuses_is_mended_as_it_says",
    ("detect/job/_definition", "write it as 15m"): WRITTEN_SO,
    ("edge/device", "deploy it again"): "remedies/test_watching_remedies.py::test_a_version_that_was_packed_before_is_deployed_again",
    ("engine/audit", "NUMBER:HASH"): "remedies/test_service_remedies.py::test_an_audit_is_read_where_it_is_and_comes_back_from_a_backup",
    ("engine/audit", "bring it back"): "remedies/test_service_remedies.py::test_an_audit_is_read_where_it_is_and_comes_back_from_a_backup",
    ("engine/audit", "say which with --folder"): "remedies/test_service_remedies.py::test_an_audit_is_read_where_it_is_and_comes_back_from_a_backup",
    ("engine/backup", "choose"): "remedies/test_service_remedies.py::test_a_backup_is_of_a_pipeline_and_goes_where_nothing_is",
    ("engine/backup", "say which with --folder"): "remedies/test_service_remedies.py::test_a_backup_is_of_a_pipeline_and_goes_where_nothing_is",
    ("engine/backup", "tocsin backup makes one"): "remedies/test_service_remedies.py::test_a_backup_is_of_a_pipeline_and_goes_where_nothing_is",
    ("engine/checkpoint", "check the disk"): "engine/test_real_disks.py::test_a_failed_fsync_stops_the_engine_and_loses_nothing",
    ("engine/checkpoint", "restore a backup"): "cli/test_remedies.py::test_damaged_state",
    ("engine/checkpoint", "stop that one"): "cli/test_expected_trouble.py::test_a_second_engine_is_refused_even_if_the_lock_file_was_deleted",
    ("engine/embedded", "make room"): "engine/test_real_disks.py::test_a_full_disk_is_waited_out",
    ("engine/recovery", "undo the change"): "test_systems_warehouse.py::test_tables_whose_rows_wait_alone_may_not_join_a_load",
    ("engine/replay", "as delta: alarms"): "cli/test_replay.py::test_what_is_lacking_is_told_with_the_remedy",
    ("engine/replay", "keep them in tables of their own"): "cli/test_replay.py::test_a_table_of_several_sources_feeds_all_that_takes_them",
    ("engine/sink_task", "restore both"): "cli/test_remedies.py::test_tables_and_state_of_different_times",
    ("engine/sink_task", "set lag"): "test_systems_warehouse.py::test_a_load_that_is_larger_than_the_lag_is_told",
    ("engine/trouble", "let the user"): "cli/test_expected_trouble.py::test_a_folder_that_may_not_be_written_to",
    ("engine/trouble", "look after the disk"): "engine/test_trouble.py::test_many_errors_are_told_and_a_start_on_a_sound_disk_goes_on",
    ("engine/trouble", "mount it"): "cli/test_expected_trouble.py::test_a_read_only_first_start",
    ("engine/trouble", "move that file away"): "cli/test_expected_trouble.py::test_a_file_where_the_folder_should_be",
    ("engine/trouble", "{}, or write elsewhere"): "cli/test_expected_trouble.py::test_a_folder_that_may_not_be_written_to",
    ("flink/runner", "bring it back"): "flink/test_flink_commands.py::test_rows_without_a_checkpoint_are_not_written_twice",
    ("flink/runner", "give it another folder"): "flink/test_flink_commands.py::test_what_ran_embedded_is_not_gone_on_with",
    ("infer/conclude", "change it in the file"): "infer/test_conclusions.py::test_day_and_month_that_cannot_be_told_apart_are_said",
    ("infer/conclude", "write a record for each reading"): "infer/test_awkward_files.py::test_a_list_for_each_column_is_refused_with_what_to_write",
    ("infer/conclude", "write the unit into the name"): "infer/test_awkward_files.py::test_units_behind_numbers_are_named",
    ("infer/form", "write them with LF or CR LF"): "infer/test_awkward_files.py::test_lines_that_end_with_cr_alone_are_refused_with_what_to_write",
    ("infer/delimited", "write each record in one line"): "infer/test_awkward_files.py::test_texts_over_several_lines_are_refused",
    ("influxdb/following", "check url and database"): "acquire/test_influxdb_source.py::test_what_the_server_refuses_is_told",
    ("influxdb/following", "check user and password"): "acquire/test_influxdb_source.py::test_what_the_server_refuses_is_told",
    ("influxdb/following", "give the right to read"): "acquire/test_influxdb_source.py::test_who_is_given_the_right_to_read_reads",
    ("kafka/group", "make it, or correct"): "test_troubleshooting_page.py::test_a_topic_that_is_deleted_and_made_again",
    ("kafka/partition", "set 'expired: skip'"): "acquire/test_kafka.py::test_records_deleted_while_they_are_read",
    ("kafka/trouble", "another process reads from"): "acquire/test_kafka.py::test_two_processes_with_one_name_are_told_apart",
    ("kafka/trouble", "another process writes to"): "output/test_kafka_sink.py::test_a_second_engine_under_our_name_shuts_the_first_out",
    ("kafka/trouble", "correct the certificates in tls"): "acquire/test_kafka.py::test_who_is_refused_is_told_and_let_in_when_that_is_corrected",
    ("kafka/trouble", "correct user, password and mechanism"): "acquire/test_kafka.py::test_who_is_refused_is_told_and_let_in_when_that_is_corrected",
    ("kafka/trouble", "set one from 6 s to 30 min"): "acquire/test_kafka.py::test_who_is_refused_is_told_and_let_in_when_that_is_corrected",
    ("kafka/trouble", "use the group"): "acquire/test_kafka.py::test_who_is_given_the_right_to_read_reads",
    ("kafka/trouble", "use the topic"): "acquire/test_kafka.py::test_who_is_given_the_right_to_read_reads",
    ("kafka/trouble", "write in transactions"): "output/test_kafka_sink.py::test_who_is_given_the_right_to_write_in_transactions_writes",
    ("kinesis/settings", "write https://host"): WRITTEN_SO,
    ("kinesis/settings", "write it into ~/.aws/config"): "acquire/test_kinesis.py::test_without_credentials_it_says_where_to_put_them",
    ("kinesis/trouble", "correct AWS_ACCESS_KEY_ID"): "acquire/test_kinesis.py::test_what_does_not_pass_is_said_with_its_remedy",
    ("kinesis/trouble", "correct the key in AWS KMS"): "acquire/test_kinesis.py::test_what_does_not_pass_is_said_with_its_remedy",
    ("kinesis/trouble", "get new ones"): "acquire/test_kinesis.py::test_what_does_not_pass_is_said_with_its_remedy",
    ("kinesis/trouble", "give the user or role the right"): "acquire/test_kinesis.py::test_what_does_not_pass_is_said_with_its_remedy",
    ("kinesis/trouble", "make it, or correct stream"): "acquire/test_kinesis.py::test_what_does_not_pass_is_said_with_its_remedy",
    ("kinesis/trouble", "needs credentials"): "acquire/test_kinesis.py::test_without_credentials_it_says_where_to_put_them",
    ("lake/log", "bring it back"): "cli/test_remedies.py::test_an_entry_of_the_log_that_is_none",
    ("lake/log", "bring them back"): "cli/test_expected_trouble.py::test_a_deleted_data_file_is_named_and_the_table_goes_on_without_it",
    ("lake/read", "bring it back"): "cli/test_expected_trouble.py::test_a_damaged_data_file_is_named_and_the_table_goes_on_without_it",
    ("lake/remote", "stop it, or give one"): "output/test_remote_delta.py::test_another_engine_under_our_name_is_noticed",
    ("lake/schema", "rename it"): "cli/test_remedies.py::test_a_column_of_another_type",
    ("models/contributions", "train anew"): "remedies/test_model_remedies.py::test_trees_that_cannot_be_read_are_taught_anew",
    ("models/manifest", "roll back"): "remedies/test_model_remedies.py::test_a_damaged_champion_is_rolled_back_or_trained_anew",
    ("models/manifest", "train it anew"): "remedies/test_model_remedies.py::test_a_damaged_version_is_trained_anew",
    ("models/store", "delete it"): "remedies/test_model_remedies.py::test_a_pointer_that_cannot_be_read",
    ("models/store", "delete the folder"): "remedies/test_model_remedies.py::test_a_version_without_manifest",
    ("models/store", "look at them"): "models/test_training_kinds.py::test_texts_by_the_page_the_last_ones_judge",
    ("models/store", "make it first"): "models/test_training_kinds.py::test_texts_by_the_page_the_last_ones_judge",
    ("models/store", "promote it all the same"): "models/test_store.py::test_promote_and_roll_back",
    ("models/text_training", "ask it with"): "models/test_training_kinds.py::test_numbers_are_written_as_text_and_rows_have_both",
    ("models/text_training", "write it as"): "models/test_training_kinds.py::test_numbers_are_written_as_text_and_rows_have_both",
    ("mongodb/collection", "set modified"): "acquire/test_mongodb.py::test_ids_of_several_types_are_refused",
    ("mongodb/settings", "write mongodb://"): WRITTEN_SO,
    ("mqtt/client", "write mqtt://"): WRITTEN_SO,
    ("mqtt/plain", "write mqtt://"): WRITTEN_SO,
    ("notify/_lifecycle", "give a time"): "remedies/test_watching_remedies.py::test_an_alarm_is_shelved_until_a_time_or_while_it_is_active",
    ("objects/store", "check the credentials"): "output/test_remote_files.py::test_refusals_name_the_remedy",
    ("objects/webhdfs", "name that of its web interface"): "output/test_remote_files.py::test_refusals_name_the_remedy",
    ("objects/webhdfs", "set storage"): "output/test_remote_files.py::test_refusals_name_the_remedy",
    ("output/_remote_files", "stop it, or give one"): "output/test_remote_files.py::test_another_engine_under_our_name_is_noticed",
    ("output/delta", "set partition_by"): "cli/test_remedies.py::test_another_partition",
    ("output/influxdb", "check user and password"): "output/test_influxdb.py::test_a_refusal_says_what_to_do",
    ("output/influxdb", "give the user or token the right"): "output/test_influxdb.py::test_who_is_given_the_right_to_write_writes",
    ("output/kafka", "look whether its rows are there"): "output/test_kafka_sink.py::test_a_forgotten_position_is_not_guessed",
    ("output/kafka", "make it, or correct"): "test_troubleshooting_page.py::test_a_topic_to_write_to_that_is_deleted",
    ("output/kafka", "raise that, or send fewer"): "output/test_kafka_sink.py::test_a_topic_with_a_smaller_limit_says_so",
    ("output/notify", "see `tocsin components notify`"): "output/test_notify.py::test_unknown_targets_stay_in_the_outbox",
    ("output/notify", "set allow_private if"): "output/test_notify.py::test_a_name_is_judged_by_what_it_resolves_to_and_then_kept",
    ("pipeline/compile", "say it there"): "pipeline/test_times_written.py::test_how_a_time_is_written_is_said_where_it_is_read",
    ("pipeline/yamlfile", "say with 'of'"): "pipeline/test_watch_block.py::test_of_says_which_columns_are_judged",
    ("pipeline/registry", "reinstall its package"): "remedies/test_watching_remedies.py::test_a_plug_in_is_taken_out_or_renamed",
    ("pipeline/registry", "uninstall its package"): "remedies/test_watching_remedies.py::test_a_plug_in_is_taken_out_or_renamed",
    ("postgres/bookkeeping", "give the"): "output/test_postgres_sink.py::test_a_column_that_must_be_given_is_named",
    ("postgres/bookkeeping", "is no table"): "output/test_postgres_sink.py::test_a_view_is_no_table",
    ("postgres/following", "add a column that tells"): "acquire/test_postgres_source.py::test_a_cursor_that_does_not_tell_rows_apart_is_refused",
    ("postgres/reading", "start again"): "acquire/test_postgres_source.py::test_columns_that_change_while_it_reads_are_told",
    ("postgres/settings", "write postgresql://"): WRITTEN_SO,
    ("postgres/table", "cast it in a"): "output/test_postgres_sink.py::test_a_type_of_another_kind_is_refused_and_changes_nothing",
    ("postgres/table", "make one"): "output/test_postgres_sink.py::test_upsert_without_a_unique_index_is_refused_with_the_remedy",
    ("postgres/writing", "write schema.table"): WRITTEN_SO,
    ("redshift/table", "cast it in a step"): "output/test_redshift_sink.py::test_a_new_column_is_added_and_another_type_is_refused",
    ("serve/access", "name it with --allowed-host"): "remedies/test_http_remedies.py::test_a_name_that_is_allowed_is_known",
    ("serve/access", "sign in first"): "remedies/test_http_remedies.py::test_who_signs_in_or_sends_a_token_is_answered",
    ("serve/access", "too many wrong tokens"): "remedies/test_http_remedies.py::test_who_has_waited_is_looked_at_again",
    ("serve/accounts", "bring it back"): "remedies/test_service_remedies.py::test_accounts_that_cannot_be_read_come_back_from_a_backup",
    ("serve/app", "choose another port"): "remedies/test_http_remedies.py::test_a_port_that_is_taken",
    ("serve/evidence", "ask for less"): "remedies/test_http_remedies.py::test_an_answer_that_is_too_large_is_asked_for_in_less",
    ("serve/prometheus", "start it with the pipeline"): "remedies/test_http_remedies.py::test_a_page_with_the_data_folder_has_tables",
    ("serve/prometheus", "write seconds"): WRITTEN_SO,
    ("serve/sign_in", "sign in with it"): "serve/test_oidc.py::test_nobody_takes_the_name_of_an_account",
    ("settings/addresses", "write http://host"): WRITTEN_SO,
    ("settings/quantities", "write it as"): WRITTEN_SO,
    ("values/computing", "write it as"): WRITTEN_SO,
    ("world", "check the disk"): "engine/test_real_disks.py::test_a_failed_fsync_stops_the_engine_and_loses_nothing",
}  # fmt: skip
"""Messages that a test of another kind follows: a piece of what they advise, and the test."""


CANNOT = {
    ("cli", "serve it beside the job"): "it needs a cluster of Flink and a page that runs until it is stopped",
    ("cli/doctor", "let the broker keep sessions"): "Mosquitto forgets a session after an hour at the earliest",
    ("cli/doctor", "make room, or keep less"): "it is the disk of the machine that the tests run on",
    ("cli/doctor", "pip install 'tocsin[certs]'"): "it installs a library; test_supply.py sees that each extra has what it names",
    ("cli/doctor", "start a time service"): "it is the clock of the machine that the tests run on",
    ("cli/doctor", "take a faster disk"): "it is the disk of the machine that the tests run on",
    ("cli/doctor", "use a disk that keeps"): "it is the disk of the machine that the tests run on",
    ("cli/mcp_http", "make one with"): "it serves until it is stopped; test_mcp.py starts it with tokens, at the cost of a process",
    ("cli/schedule", "--status says why"): "it is said of a job in a process of its own, which test_jobs.py starts; the status is looked at there",
    ("cli/watch", "behind the broker in the address"): "it needs a plant that speaks Sparkplug B to a broker for seconds",
    ("cli/watch", "mend it there"): "what is concluded of a sample reads it: no sample is known here of which no row can be read",
    ("cli/watching", "tocsin run"): "it opens a page and runs until it is stopped",
    ("engine/backup", "stop the pipeline for the backup"): "it needs a folder that changes faster than it is copied for the whole time",
    ("engine/sink_task", "undo the change"): "rows must wait for a table while the file names another; test_systems_warehouse.py does it for loads",
    ("errors", "install it with"): "it installs a library; test_supply.py sees that each extra has what it names",
    ("flink/distribution", "install one, or set JAVA_HOME"): "it installs a JDK",
    ("flink/keeping", "restore both"): "it needs a cluster of Flink; cli/test_remedies.py follows the same words of the embedded engine",
    ("flink/rest", "start one with tocsin flink up"): "it needs a cluster of Flink",
    ("flink/runner", "try it again"): "it needs a cluster of Flink that takes no job for minutes",
    ("kafka/assigned", "make it, or correct its name"): "it is read so by workers of a cluster of Flink only; test_kafka.py follows the same words of the embedded engine",
    ("kafka/assigned", "set 'expired: skip'"): "it is read so by workers of a cluster of Flink only; test_kafka.py follows the same words of the embedded engine",
    ("kafka/trouble", "do this"): "today's brokers ask for that right of nobody who reads or writes",
    ("kafka/trouble", "set another mechanism"): "the broker of the tests takes every mechanism",
    ("kinesis/shard", "raise the stream's retention period"): "the stand-in for Kinesis drops nothing",
    ("kinesis/trouble", "set AWS_CA_BUNDLE"): "the stand-in for Kinesis speaks no TLS",
    ("mongodb/trouble", "correct user, password"): "the stand-in for MongoDB lets everybody in",
    ("mongodb/trouble", "give the user the role"): "the stand-in for MongoDB lets everybody in",
    ("mongodb/trouble", "make its oplog larger"): "the stand-in for MongoDB has no oplog",
    ("mongodb/trouble", "remove watch"): "the stand-in for MongoDB has a change stream",
}  # fmt: skip
"""Messages that no test here can follow: a piece of what they advise, and why not."""


def is_followed(advice: Advice) -> bool:
    by_case = any(case.module == advice.module and case.says in advice.text for case in CASES)
    return by_case or any(module == advice.module and says in advice.text for module, says in ELSEWHERE)


def test_what_is_advised_is_followed() -> None:
    left = [one for one in advices() if not is_followed(one)]
    excused = {
        (module, says) for module, says in CANNOT for one in left if (one.module, one.has(says)) == (module, True)
    }
    new = [
        f"{one.module}:{one.line}: {one.text}"
        for one in left
        if not any(one.module == m and one.has(w) for m, w in CANNOT)
    ]
    assert not new, "\n".join(["follow what is advised in a case of tests/remedies:", *new])
    assert excused == set(CANNOT), f"these are followed, or advised no longer: {sorted(set(CANNOT) - excused)}"


@pytest.mark.parametrize(("module", "says"), ELSEWHERE)
def test_the_test_elsewhere_exists(module: str, says: str) -> None:
    path, name = ELSEWHERE[module, says].split("::")
    assert any(
        isinstance(node, ast.FunctionDef) and node.name == name
        for node in ast.walk(ast.parse((TESTS / path).read_text()))
    )
    assert any(one.module == module and says in one.text for one in advices())
