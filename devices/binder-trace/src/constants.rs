//! The UAPI's names for its numbers.

use binder::protocol::{bc, br, ioctl, tf};

/// `TF_*` names joined by `|`, unknown bits in hex, 0 for none.
pub fn flags(bits: u32) -> String {
    let known = [
        (tf::ONE_WAY, "ONE_WAY"),
        (0x04, "ROOT_OBJECT"),
        (STATUS_CODE, "STATUS_CODE"),
        (tf::ACCEPT_FDS, "ACCEPT_FDS"),
        (tf::CLEAR_BUF, "CLEAR_BUF"),
        (tf::UPDATE_TXN, "UPDATE_TXN"),
    ];
    let mut names: Vec<String> =
        known.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| (*name).to_owned()).collect();
    let rest = known.iter().fold(bits, |rest, (bit, _)| rest & !bit);
    if rest != 0 || names.is_empty() {
        names.push(if rest == 0 { "0".to_owned() } else { format!("{rest:#x}") });
    }
    names.join("|")
}

/// `TF_STATUS_CODE`: the data of a reply is a `status_t`.
pub const STATUS_CODE: u32 = 0x08;

/// Whether a `BR_*` word tells a sender that its transaction failed.
pub fn is_failure(result: u32) -> bool {
    matches!(result, br::FAILED_REPLY | br::DEAD_REPLY | br::FROZEN_REPLY)
}

/// Defines a function from numbers of a module of `binder::protocol` to their names in the UAPI.
macro_rules! names {
    ($(#[$doc:meta])* $function:ident, $module:ident, $prefix:literal: $($name:ident)*) => {
        $(#[$doc])*
        pub fn $function(number: u32) -> String {
            match number {
                $($module::$name => concat!($prefix, stringify!($name)).to_owned(),)*
                other => format!("{other:#x}"),
            }
        }
    };
}

names! {
    /// Name of an ioctl, or its number in hex.
    ioctl_name, ioctl, "BINDER_":
    WRITE_READ SET_MAX_THREADS SET_CONTEXT_MGR THREAD_EXIT VERSION GET_NODE_DEBUG_INFO
    GET_NODE_INFO_FOR_REF SET_CONTEXT_MGR_EXT FREEZE GET_FROZEN_INFO ENABLE_ONEWAY_SPAM_DETECTION
    GET_EXTENDED_ERROR
}

names! {
    /// Name of a command word, or its number in hex.
    command_name, bc, "BC_":
    TRANSACTION REPLY ACQUIRE_RESULT FREE_BUFFER INCREFS ACQUIRE RELEASE DECREFS INCREFS_DONE ACQUIRE_DONE
    ATTEMPT_ACQUIRE REGISTER_LOOPER ENTER_LOOPER EXIT_LOOPER REQUEST_DEATH_NOTIFICATION
    CLEAR_DEATH_NOTIFICATION DEAD_BINDER_DONE TRANSACTION_SG REPLY_SG REQUEST_FREEZE_NOTIFICATION
    CLEAR_FREEZE_NOTIFICATION FREEZE_NOTIFICATION_DONE
}

names! {
    /// Name of a return word, or its number in hex.
    return_name, br, "BR_":
    ERROR OK TRANSACTION_SEC_CTX TRANSACTION REPLY ACQUIRE_RESULT DEAD_REPLY TRANSACTION_COMPLETE INCREFS ACQUIRE
    RELEASE DECREFS ATTEMPT_ACQUIRE NOOP SPAWN_LOOPER DEAD_BINDER CLEAR_DEATH_NOTIFICATION_DONE FAILED_REPLY FROZEN_REPLY
    ONEWAY_SPAM_SUSPECT TRANSACTION_PENDING_FROZEN FROZEN_BINDER CLEAR_FREEZE_NOTIFICATION_DONE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_numbers_stay_numbers() {
        assert_eq!(flags(0), "0");
        assert_eq!(flags(0x81), "ONE_WAY|0x80");
        assert_eq!(command_name(0x1234), "0x1234");
        assert_eq!(ioctl_name(ioctl::VERSION), "BINDER_VERSION");
    }
}
