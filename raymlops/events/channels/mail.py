"""A mail over SMTP. Mails of one incident are one thread."""

import hashlib
import smtplib
import ssl
from collections.abc import Callable
from email.message import EmailMessage
from email.utils import format_datetime, localtime

from raymlops.events.channels import ChannelAwayError, MessageRefusedError
from raymlops.events.message import Message, write_text, write_title
from raymlops.specs.notify import MailChannel


class MailSender:
    def __init__(self, settings: MailChannel, find_variable: Callable[[str], str]) -> None:
        self._settings = settings
        self._password = find_variable(settings.password_env) if settings.password_env else ""

    def send(self, message: Message) -> None:
        place = f"The mail server {self._settings.host}:{self._settings.port}"
        try:
            with self._connect() as server:
                refused = server.send_message(write_mail(message, self._settings))
        except smtplib.SMTPAuthenticationError as error:
            raise ChannelAwayError(
                f"{place} does not accept the user and password: {error.smtp_code}"
            ) from None
        except smtplib.SMTPRecipientsRefused as error:
            codes = [code for code, _ in error.recipients.values()]
            told = f"{place} refuses all recipients: {', '.join(map(str, sorted(set(codes))))}"
            if all(500 <= code < 600 for code in codes):
                raise MessageRefusedError(told) from None
            raise ChannelAwayError(told) from None
        except smtplib.SMTPResponseException as error:
            told = f"{place} answered with {error.smtp_code}: {_to_text(error.smtp_error)}"
            kind = MessageRefusedError if 550 <= error.smtp_code < 560 else ChannelAwayError
            raise kind(told) from None
        except (smtplib.SMTPException, OSError) as error:
            raise ChannelAwayError(f"{place} cannot be reached: {type(error).__name__}: {error}") from None
        if refused:  # others have it: sending again would double it for them
            raise MessageRefusedError(
                f"{place} refuses {', '.join(sorted(refused))}; all others have the mail"
            )

    def _connect(self) -> smtplib.SMTP:
        settings, context = self._settings, ssl.create_default_context()
        server = (
            smtplib.SMTP_SSL(settings.host, settings.port, timeout=settings.timeout_s, context=context)
            if settings.tls == "always"
            else smtplib.SMTP(settings.host, settings.port, timeout=settings.timeout_s)
        )
        try:
            if settings.tls == "starttls":
                server.starttls(context=context)
            if settings.user:
                server.login(settings.user, self._password)
        except BaseException:
            server.close()
            raise
        return server


def write_mail(message: Message, settings: MailChannel) -> EmailMessage:
    """With a Message-ID made from the event's id, by which mail programs drop a second copy."""
    mail = EmailMessage()
    mail["Subject"] = write_title(message)
    mail["From"], mail["To"] = settings.sender, ", ".join(settings.to)
    mail["Date"] = format_datetime(localtime())
    mail["Message-ID"] = _to_message_id(message.event.id)
    mail["References"] = _to_message_id(f"{message.event.application}/{message.event.subject}")
    mail["Auto-Submitted"] = "auto-generated"  # no out-of-office answers
    mail.set_content(write_text(message))
    return mail


def _to_message_id(text: str) -> str:
    return f"<{hashlib.sha256(text.encode()).hexdigest()[:32]}@raymlops>"


def _to_text(told: bytes | str) -> str:
    return (told.decode(errors="replace") if isinstance(told, bytes) else told)[:200]
