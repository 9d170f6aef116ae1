"""The demo with a door: chatting takes a log-in, which is one link.

From Django 6 on its own middleware sends the policy, with a nonce and without ``'self'``.
"""

import django

from tests.acceptance.demo_settings import *  # noqa: F403
from tests.acceptance.demo_settings import CHATSTREAM, MIDDLEWARE, TEMPLATES

CHATSTREAM["ALLOW_ANONYMOUS"] = False
CHATSTREAM["PROVIDERS"]["default"]["OPTIONS"] |= {
    "first_token_timeout": 60.0,
    "token_timeout": 60.0,
}
ROOT_URLCONF = "tests.acceptance.page_urls"
LOGIN_URL = "/enter/"

if django.VERSION >= (6, 0):
    from django.utils.csp import CSP

    MIDDLEWARE[MIDDLEWARE.index("project.middleware.content_security_policy")] = (
        "django.middleware.csp.ContentSecurityPolicyMiddleware"
    )
    TEMPLATES[0]["OPTIONS"]["context_processors"].append("django.template.context_processors.csp")
    SECURE_CSP = {
        "default-src": [CSP.SELF],
        "script-src": [CSP.NONCE, CSP.STRICT_DYNAMIC],
        "base-uri": [CSP.NONE],
        "object-src": [CSP.NONE],
        "require-trusted-types-for": ["'script'"],
        "trusted-types": ["dompurify"],
    }
