{% test row_count_change_within(model, min_change, max_change) %}

{%- if min_change > max_change %}
    {%- do exceptions.raise_compiler_error(
        'row_count_change_within of ' ~ model ~ ': min_change '
        ~ min_change ~ ' is more than max_change ' ~ max_change
    ) %}
{%- endif %}

with present as (

    select count(*) as row_count
    from {{ model }}

),

last_passed as (

    {{ last_row_count() }}

),

compared as (

    select
        last_passed.row_count as last_row_count,
        present.row_count,
        present.row_count - last_passed.row_count as row_change
    from present
    cross join last_passed

)

select
    last_row_count,
    row_count,
    1.0 * row_change / last_row_count as change_rate,
    {{ min_change }} as min_change,
    {{ max_change }} as max_change
from compared
where
    last_row_count > 0
    and (
        row_change < {{ min_change }} * last_row_count
        or row_change > {{ max_change }} * last_row_count
    )
    {%- if var('accept_row_counts', false) %}
    and false
    {%- endif %}

{% endtest %}
