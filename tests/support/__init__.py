"""Real servers, real faults and the helpers that wait for them: what the tests run against instead of mocks."""
