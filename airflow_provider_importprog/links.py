"""The link from a task to the page of its import job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context, TaskInstanceKey

    from airflow_provider_importprog.hooks.import_progress import ImportProgressHook


class ImportJobLink(BaseOperatorLink):
    """The page of an import job in a console: what the connection's extra ``console_url`` says, filled in."""

    name = "Import job"

    @property
    def xcom_key(self) -> str:
        """The XCom that holds the URL: also what Airflow 3 writes itself once a task ends or is deferred."""
        return "_link_ImportJobLink"

    def get_link(self, operator: Any, *, ti_key: TaskInstanceKey) -> str:
        """Return the URL that the task has pushed, or an empty one: on a worker, and in the webserver of 2.11."""
        # What this process has shown is not asked for: Airflow 3 logs an error where an XCom is not there.
        page: str | None = getattr(operator, "job_page", None)
        if page is None:
            # Imported here, because Airflow imports all links of all providers at once.
            from airflow.providers.common.compat.sdk import XCom

            page = XCom.get_value(key=self.xcom_key, ti_key=ti_key)
        return page or ""

    def show(
        self, context: Context, hook: ImportProgressHook, job_id: str, cluster_id: str | None, collection: str | None
    ) -> str:
        """Show the link from now on, where the connection names a page and all that its URL names is known.

        Pushed by the task as soon as it can, because Airflow 2.11 knows the URL from nowhere else, and Airflow 3 asks
        for it only when the task ends or is deferred.

        :return: the URL, empty where there is none.
        """
        ti: Any = context.get("ti")
        page = hook.job_page(job_id, cluster_id, collection)
        if ti is not None and page is not None:
            ti.xcom_push(key=self.xcom_key, value=page)
        return page or ""


IMPORT_JOB_LINK = ImportJobLink()
