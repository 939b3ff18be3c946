"""
From settings to what they need of the world: couriers for the routes, endpoints
to listen at. What cannot be made shows here, all of it at once and each with
its place in the configuration: when a relay starts, when it reads its
configuration again, and when somebody only asks (C{pymail-tx config check}).
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen
from twisted.internet.interfaces import IReactorCore

from pymail_tx.config.keys import Misfit
from pymail_tx.config.reading import Configuration, WrongConfiguration
from pymail_tx.config.settings import DEFAULT_SMTP, Settings
from pymail_tx.core.errors import BadArgument
from pymail_tx.relay.couriers import BadRoutes, Couriers, Surroundings
from pymail_tx.relay.listening import Endpoint


@frozen
class Made:
    """Ready, and not at work yet."""

    settings: Settings
    couriers: Couriers
    endpoints: Sequence[Endpoint]


def make(
    configuration: Configuration, reactor: IReactorCore, surroundings: Surroundings, kept: Couriers | None = None
) -> Made:
    """
    @param kept: couriers that are at work; those whose target is still there
        stay.
    @raise WrongConfiguration: something cannot be made.
    """
    settings = configuration.settings
    misfits: list[Misfit] = []
    couriers = _couriers(settings, surroundings, kept, misfits)
    endpoints = _endpoints(settings, reactor, misfits)
    if misfits or couriers is None:
        raise WrongConfiguration(configuration.source.problems(misfits))
    return Made(settings, couriers, endpoints)


def _couriers(
    settings: Settings, surroundings: Surroundings, kept: Couriers | None, misfits: list[Misfit]
) -> Couriers | None:
    try:
        return Couriers.of(settings.routes, surroundings, kept)
    except BadRoutes as wrong:
        misfits += (Misfit(("route", place, "to"), words) for place, words in wrong.problems.items())
        return None


def _endpoints(settings: Settings, reactor: IReactorCore, misfits: list[Misfit]) -> Sequence[Endpoint]:
    endpoints: list[Endpoint] = []
    for place, text in enumerate(settings.smtp.listen):
        try:
            endpoints.append(Endpoint.parse(reactor, text, option="smtp", example=DEFAULT_SMTP))
        except BadArgument as problem:
            misfits.append(Misfit(("smtp", "listen", place), problem.words))
    return endpoints
