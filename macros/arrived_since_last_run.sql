{% macro arrived_since_last_run() -%}
    {#- Top 1 and not max(): once rows were deleted, DuckDB scans the table for
        its maximum, but reads only the newest rows for this. -#}
    _load_id > coalesce(
            (
                select seen._load_id
                from {{ this }} as seen
                order by seen._load_id desc
                limit 1
            ),
            -1
        )
{%- endmacro %}
