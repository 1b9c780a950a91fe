//! The rules, one file each.

mod apt_get_cleanup;
mod apt_get_update_apart;
mod arg_before_its_use;
mod change_mode_in_later_layer;
mod consistent_instruction_casing;
mod copied_folders;
mod copy_ignored_file;
mod copy_several_sources_to_file;
mod duplicate_stage_name;
mod expose_invalid_format;
mod expose_proto_casing;
mod from_as_casing;
mod from_platform_flag_const_disallowed;
mod git_folder_copied;
mod heredoc_without_errexit;
mod ignore_pattern_matches_nothing;
mod invalid_base_image_platform;
mod invalid_default_arg_in_from;
mod invalid_definition_description;
mod json_args_recommended;
mod legacy_key_value_format;
mod maintainer_deprecated;
mod multiple_instructions_disallowed;
mod no_empty_continuation;
mod redundant_target_platform;
mod reserved_stage_name;
mod secret_file_copied;
mod secrets_used_in_arg_or_env;
mod shell_text;
mod stage_name_casing;
mod undefined_arg_in_from;
mod undefined_var;
mod unpinned_base_image;
mod workdir_relative_path;

pub(super) use secrets_used_in_arg_or_env::is_secret;

use super::evaluate::Evaluation;
use super::{Findings, Phase, Rule, RuleGroup};

/// BuildKit's rules in the order of its documentation, then rbuild's.
pub(super) const ALL: [Rule; 32] = [
    stage_name_casing::RULE,
    from_as_casing::RULE,
    no_empty_continuation::RULE,
    consistent_instruction_casing::RULE,
    duplicate_stage_name::RULE,
    reserved_stage_name::RULE,
    json_args_recommended::RULE,
    maintainer_deprecated::RULE,
    undefined_arg_in_from::RULE,
    workdir_relative_path::RULE,
    undefined_var::RULE,
    multiple_instructions_disallowed::RULE,
    legacy_key_value_format::RULE,
    invalid_base_image_platform::RULE,
    redundant_target_platform::RULE,
    secrets_used_in_arg_or_env::RULE,
    invalid_default_arg_in_from::RULE,
    from_platform_flag_const_disallowed::RULE,
    copy_ignored_file::RULE,
    invalid_definition_description::RULE,
    expose_proto_casing::RULE,
    expose_invalid_format::RULE,
    copy_several_sources_to_file::RULE,
    apt_get_cleanup::RULE,
    apt_get_update_apart::RULE,
    heredoc_without_errexit::RULE,
    change_mode_in_later_layer::RULE,
    arg_before_its_use::RULE,
    unpinned_base_image::RULE,
    git_folder_copied::RULE,
    secret_file_copied::RULE,
    ignore_pattern_matches_nothing::RULE,
];
