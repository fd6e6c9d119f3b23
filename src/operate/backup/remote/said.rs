//! Error answers of a store, and advice about them.

use crate::base::text;

/// The maximum number of characters of a store's answer in the log.
const SAID_CHARS_MAX: usize = 200;

/// The text of an S3 error without its XML: `<Code>` and `<Message>`.
pub(super) fn said(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer);
    let within = |tag: &str| {
        let (_, rest) = text.split_once(&format!("<{tag}>"))?;
        Some(rest.split_once('<')?.0)
    };
    let said = match (within("Code"), within("Message")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        (None, _) => text.into_owned(),
    };
    let said: String = said.trim().chars().take(SAID_CHARS_MAX).collect();
    let said = text::shown(&said);
    // Decode only the entities that occur in sentences. `&amp;` comes last, because decoding it may
    // produce other entities.
    let said = said.replace("&#39;", "'").replace("&quot;", "\"");
    let said = said.replace("&lt;", "<").replace("&gt;", ">");
    let said = said.replace("&amp;", "&");
    if said.is_empty() {
        "nothing".to_owned()
    } else {
        said
    }
}

/// The advice for this error, as the end of a sentence; empty if only the store can fix the error.
pub(super) fn advice(said: &str) -> &'static str {
    let (code, message) = said.split_once(": ").unwrap_or((said, ""));
    // For a wrong clock, some stores answer with a separate code, others with the code for any
    // denied request.
    let is_of_time = ["request time", "expired", "not valid yet", "not yet valid"]
        .iter()
        .any(|words| message.contains(words));
    match code {
        "SignatureDoesNotMatch" => {
            "; the secret in backup.s3.secret_key_file is not that of backup.s3.access_key: put the right one there"
        }
        "InvalidAccessKeyId" => "; the store does not know backup.s3.access_key: correct it",
        "NoSuchBucket" => {
            "; make that bucket, or correct backup.s3.bucket, or backup.s3.path_style if the store reads names elsewhere"
        }
        "RequestTimeTooSkewed" | "RequestExpired" => WRONG_CLOCK,
        "AccessDenied" if is_of_time => WRONG_CLOCK,
        "AccessDenied" => {
            "; backup.s3.access_key may not do this: allow it to list, put and delete objects in the bucket"
        }
        "AuthorizationHeaderMalformed"
        | "AuthorizationQueryParametersError"
        | "PermanentRedirect" => {
            "; backup.s3.region or backup.s3.endpoint is not the bucket's: correct them"
        }
        _ => "",
    }
}

/// The clock matters because a signature contains its time.
const WRONG_CLOCK: &str =
    "; this machine's clock and the store's differ: set this one, best by NTP";

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::super::RemoteError;
    use super::*;

    #[test]
    fn what_a_store_says_is_told_without_its_xml() {
        let xml = b"<?xml version=\"1.0\"?><Error><Code>SignatureDoesNotMatch</Code><Message>Check your key.</Message></Error>";
        assert_eq!(said(xml), "SignatureDoesNotMatch: Check your key.");
        assert_eq!(said(b"Bad\r\nGateway"), "Bad\\r\\nGateway");
        assert_eq!(said(b""), "nothing");
    }

    #[test]
    fn what_the_operator_can_mend_is_said_with_what_to_do() {
        let told = |code: &str, message: &str| {
            let xml = format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>");
            let status = StatusCode::FORBIDDEN;
            let said = said(xml.as_bytes());
            RemoteError::Status { status, said }.to_string()
        };
        // The first message is from rclone, the next ones are from AWS.
        let late = "The difference between the request time and the server&#39;s time exceeds the maximum allowed.";
        let said = told("AccessDenied", late);
        assert!(said.contains("the server's time"), "{said}");
        assert!(said.contains("set this one, best by NTP"), "{said}");
        for (code, message, wanted) in [
            ("RequestTimeTooSkewed", "Too large.", "NTP"),
            ("AccessDenied", "Request has expired", "NTP"),
            ("AccessDenied", "Access Denied", "list, put and delete"),
            (
                "SignatureDoesNotMatch",
                "Check.",
                "backup.s3.secret_key_file",
            ),
            ("InvalidAccessKeyId", "No such.", "backup.s3.access_key"),
            ("NoSuchBucket", "No such.", "backup.s3.bucket"),
            (
                "AuthorizationQueryParametersError",
                "the region 'r' is wrong; expecting 'eu-central-1'",
                "backup.s3.region",
            ),
        ] {
            let said = told(code, message);
            assert!(said.contains(wanted), "{said}");
        }
        let said = told("SlowDown", "Reduce your request rate.");
        assert!(
            said.ends_with("SlowDown: Reduce your request rate."),
            "{said}"
        );
    }
}
